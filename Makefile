# avcurate: build, install, test, demo.  `make help` lists the targets.

EXTENSION  = avcurate
EXTVERSION = 0.1
MODULE_big = avcurate
ENGINE     = avcurate-engine

ifneq ($(words $(CURDIR)),1)
$(error make cannot work in a folder with blanks in its path: $(CURDIR))
endif

comma := ,

# ---- sources -------------------------------------------------------------
SUBJECTS = common clip datasets features slices batches jobs models training \
           evaluation experiments search
# engine files that the server uses too: no oneDNN, no OpenMP, no globals
SHARED_ENGINE_SRCS = $(wildcard src/engine/status.c \
                       src/engine/core/devices.c \
                       src/engine/io/safetensors.c \
                       src/engine/io/safetensors_write.c \
                       src/engine/io/json_scan.c \
                       src/engine/io/crc32.c \
                       src/engine/io/zip_write.c \
                       src/engine/io/pickle_objects.c \
                       src/engine/io/pth_versions.c \
                       src/engine/io/pth_write.c \
                       src/engine/io/json.c \
                       src/engine/nets/clip_config.c \
                       src/engine/nets/constructor.c \
                       src/engine/nets/detector_config.c \
                       src/engine/nets/detector_options.c)
SERVER_SRCS = $(wildcard src/*.c $(SUBJECTS:%=src/%/*.c) src/image/*.c) \
              $(SHARED_ENGINE_SRCS)
ENGINE_SRCS = $(shell find src/engine src/image -name '*.c' 2>/dev/null | sort)
ENGINE_TESTS = $(patsubst test/engine/%.c,build/test/%,$(wildcard test/engine/*.c))

OBJS = $(SERVER_SRCS:.c=.o)
SQL_PARTS  = $(sort $(wildcard sql/[0-9][0-9]*_*.sql))
DATA_built = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA       = $(wildcard sql/$(EXTENSION)--*--*.sql)

# ---- flags ---------------------------------------------------------------
WARNINGS     = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers
PG_CPPFLAGS  = -I$(srcdir)/src -DAVC_VERSION='"$(EXTVERSION)"'
PG_CFLAGS    = -std=gnu99 $(WARNINGS) -ffp-contract=off -MMD -MP
# loops over pixels, hashes and vectors: compilers do many at once from here on
src/image/measure.o src/image/resize.o src/image/resize_rgb.o src/search/cover_join.o \
src/search/cosine.o: override CFLAGS += -O3
SHLIB_LINK   = -lturbojpeg -ljansson -lyajl -lcrypto -lutf8proc -lz -lm
ENGINE_OPT   = -O3 -g
ENGINE_CFLAGS = -std=gnu99 $(WARNINGS) -Werror=implicit -fopenmp -fPIC -pthread \
                -Isrc -DAVC_VERSION='"$(EXTVERSION)"' -D_GNU_SOURCE \
                -MMD -MP $(ENGINE_OPT) $(COPT) $(SANITIZE)
ENGINE_LIBS   = -ldnnl -lturbojpeg -ljansson -fopenmp -pthread -lm -ldl
ENGINE_OBJS   = $(ENGINE_SRCS:%.c=build/obj/%.o)
ENGINE_LIB    = build/libengine.a
# plain C of the server's side, tested without a server
PLAIN_SRCS    = $(wildcard src/datasets/scene*.c src/clip/*.c) $(wildcard src/search/cover*.c)
PLAIN_OBJS    = $(PLAIN_SRCS:%.c=build/obj/%.o)
PLAIN_LIBS    = -lutf8proc -lz

# readers of files, over inputs that are nearly right; of the server they need
# little, which test/fuzz/server_double.c gives them
FUZZ_READERS  = json_stream label_reader bdd100k_labels coco_labels label_text \
                category
FUZZ_OBJS     = $(FUZZ_READERS:%=build/fuzz/src/datasets/%.o) \
                build/fuzz/test/fuzz/labels.o \
                build/fuzz/test/fuzz/server_double.o
FUZZ_TESTS    = build/test/fuzz_labels build/test/fuzz_jpeg \
                build/test/fuzz_weights
FUZZ_LIBS     = $(addprefix $(shell $(PG_CONFIG) --pkglibdir)/,libpgcommon.a libpgport.a) \
                -lyajl -lm

EXTRA_CLEAN = $(ENGINE) build $(DATA_built) $(OBJS:.o=.d) results output_iso \
              regression.diffs regression.out

# ---- tests ---------------------------------------------------------------
REGRESS        = $(basename $(notdir $(wildcard test/sql/*.sql)))
ISOLATION      = $(basename $(notdir $(wildcard test/specs/*.spec)))
TEST_OPTS      = --inputdir=test --temp-config=test/regress.conf
REGRESS_OPTS   = $(TEST_OPTS) --temp-instance=./tmp_check
ISOLATION_OPTS = $(TEST_OPTS) --temp-instance=./tmp_check_iso --outputdir=.
TAP_TESTS      = 1
PROVE_TESTS    = test/t/*.pl

# The server's files are relocatable; tests and demo use a private copy of
# them (tmp_install) so that nothing outside the working tree is changed.
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
# bitcode would serve JIT inlining only, which no function here gains from
override with_llvm = no

# Targets that must work before the server headers are installed.
# NO_PGXS=1 does the same for others: test/gpu builds where no server is.
NO_PGXS_GOALS = check-gpu bench-gpu gpu-kit gpu-tests deps help demo reference real check check-long check-torch soak clean-state
ifeq ($(filter $(NO_PGXS_GOALS),$(MAKECMDGOALS))$(NO_PGXS),)
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(PGXS),)
$(error PostgreSQL server headers are missing: run "make deps", or set PG_CONFIG)
endif
include $(PGXS)
ifneq ($(MAJORVERSION),15)
$(error PostgreSQL 15 is needed, and $(PG_CONFIG) is of $(VERSION))
endif
-include $(OBJS:.o=.d) $(ENGINE_OBJS:.o=.d) $(PLAIN_OBJS:.o=.d) $(FUZZ_OBJS:.o=.d)
else
-include $(ENGINE_OBJS:.o=.d) $(PLAIN_OBJS:.o=.d)
check:
	@test/run_checks
check-long:
	@AVC_LONG=1 test/run_checks
endif

ifneq ($(wildcard src/engine/main.c),)
all: $(ENGINE)
install: install-engine
endif

$(DATA_built): $(SQL_PARTS) Makefile
	cat $(SQL_PARTS) > $@

# ---- engine --------------------------------------------------------------
build/obj/src/engine/cpu/%.o: ENGINE_FP = -ffp-contract=fast -mprefer-vector-width=512
# the way back repeats sums of the way forward: to the bit, so without choices
build/obj/src/engine/cpu/norm.o build/obj/src/engine/cpu/norm_gradient.o: ENGINE_FP = -ffp-contract=off -mprefer-vector-width=512
ENGINE_FP = -ffp-contract=off

build/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -c $< -o $@

$(ENGINE_LIB): $(filter-out build/obj/src/engine/main.o,$(ENGINE_OBJS))
	@rm -f $@
	$(AR) rcs $@ $^

$(ENGINE): build/obj/src/engine/main.o $(ENGINE_LIB)
	$(CC) $(SANITIZE) $^ $(ENGINE_LIBS) -o $@

build/test/%: test/engine/%.c $(PLAIN_OBJS) $(ENGINE_LIB) $(wildcard test/engine/*.h)
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -Itest/engine $< $(PLAIN_OBJS) $(ENGINE_LIB) $(PLAIN_LIBS) $(ENGINE_LIBS) -o $@

build/fuzz/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) -I$(shell $(PG_CONFIG) --includedir-server) -Itest/fuzz -c $< -o $@

build/test/fuzz_labels: $(FUZZ_OBJS)
	@mkdir -p $(@D)
	$(CC) $(SANITIZE) $^ $(FUZZ_LIBS) -o $@

build/test/fuzz_jpeg build/test/fuzz_weights: build/test/fuzz_%: \
		build/fuzz/test/fuzz/%.o $(ENGINE_LIB)
	@mkdir -p $(@D)
	$(CC) $(SANITIZE) $^ $(ENGINE_LIBS) -o $@

engine: $(ENGINE)

# ---- GPU backend ---------------------------------------------------------
# A library of its own, opened at run time.  Its kernels compile for the
# processor too: the same backend without a GPU, for tests.
CUDA_KERNELS = $(wildcard cuda/*.cu)
CUDA_SRCS    = $(wildcard cuda/*.c)
# functions of the engine that it uses: copies of its own
CUDA_SHARED_OBJS = $(addprefix build/obj/src/engine/,status.o core/arena.o \
                     core/random.o core/ranks.o ops/anchors.o ops/sampler.o nets/regions.o)
EMULATED      = build/emulated/avcurate_cuda.so
# stand-ins for the runtime and the libraries
EMULATED_SRCS = $(filter-out test/emulated/other.c,$(wildcard test/emulated/*.c)) \
                $(wildcard test/emulated/*.cc)
EMULATED_OBJS = $(CUDA_KERNELS:%.cu=build/emulated/%.o) \
                $(patsubst %.c,build/emulated/%.o,$(filter-out cuda/nccl.c,$(CUDA_SRCS))) \
                $(addprefix build/emulated/,$(addsuffix .o,$(basename $(EMULATED_SRCS))))
# the libraries' own headers where they are
EMULATED_INCLUDE = $(if $(CUDA_LIBRARIES_FOUND),$(CUDA_INCLUDE),-Itest/emulated/include)
EMULATED_CXXFLAGS = -std=gnu++14 -DENG_EMULATED -Wall -Wextra \
                -Wno-unknown-pragmas -Wno-unused-function -fPIC -O2 -g \
                -ffp-contract=off -Isrc -I. -Itest/emulated -MMD -MP $(COPT) $(SANITIZE)

build/emulated/%.o: %.cu Makefile
	@mkdir -p $(@D)
	$(CXX) -x c++ $(EMULATED_CXXFLAGS) -c $< -o $@
build/emulated/%.o: %.cc Makefile
	@mkdir -p $(@D)
	$(CXX) $(EMULATED_CXXFLAGS) $(EMULATED_INCLUDE) -c $< -o $@
build/emulated/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -I. -Itest/emulated $(EMULATED_INCLUDE) -c $< -o $@
$(EMULATED): $(EMULATED_OBJS) $(ENGINE_LIB) cuda/exports.map
	$(CXX) $(SANITIZE) -shared $(EMULATED_OBJS) $(ENGINE_LIB) -fopenmp -lm \
		-Wl,--version-script=cuda/exports.map -Wl,-z,defs -o $@
# its cuDNN and cuBLASLt alone, under tests that are the device
build/test/cudnn_rules: test/engine/cudnn_rules.c test/engine/tap.h $(ENGINE_LIB) \
		$(patsubst %.c,build/emulated/%.o,$(wildcard test/emulated/cudnn*.c)) \
		$(addprefix build/emulated/cuda/,descriptor.o conv_graph.o conv_plan.o)
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -I. -Itest/engine -Itest/emulated $(EMULATED_INCLUDE) \
		$(filter %.c %.o,$^) $(ENGINE_LIB) $(ENGINE_LIBS) -o $@
build/test/cublaslt_rules: test/engine/cublaslt_rules.c test/engine/tap.h $(ENGINE_LIB) \
		$(patsubst %.c,build/emulated/%.o,$(wildcard test/emulated/cublaslt*.c))
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -I. -Itest/engine -Itest/emulated $(EMULATED_INCLUDE) \
		$(filter %.c %.o,$^) $(ENGINE_LIB) $(ENGINE_LIBS) -o $@
build/emulated/other.so: build/emulated/test/emulated/other.o
	$(CC) $(SANITIZE) -shared $^ -o $@
-include $(EMULATED_OBJS:.o=.d)
engine-tests: $(ENGINE_TESTS) $(FUZZ_TESTS) $(EMULATED) build/emulated/other.so

# The library itself, where the CUDA toolkit is.  cuDNN and cuBLASLt may lie
# with the toolkit or where pip puts them.
CUDA_HOME    ?= $(firstword $(wildcard /usr/local/cuda /usr/local/cuda-13* /opt/cuda) /usr/local/cuda)
NVCC         ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc))
CUDA_ARCHS   ?= 75 80 86 89 90 100 120
# looked for once, when needed
CUDA_PLACES  ?= $(eval CUDA_PLACES := $(shell test/cuda_places "$(CUDA_HOME)"))$(CUDA_PLACES)
CUDA_INCLUDE  = $(patsubst %,-I%,$(filter %/include,$(CUDA_PLACES)))
CUDA_LIBS     = $(filter %.a %.so.9 %.so.13,$(CUDA_PLACES))
CUDA_LIBRARIES_FOUND = $(and $(filter %libcudnn_graph.so.9,$(CUDA_LIBS)),$(filter %libcublasLt.so.13,$(CUDA_LIBS)))
CUDA_FOUND    = $(and $(NVCC),$(CUDA_LIBRARIES_FOUND))
PLUGIN        = avcurate_cuda.so
PLUGIN_OBJS   = $(CUDA_KERNELS:cuda/%.cu=build/cuda/%.cu.o) \
                $(CUDA_SRCS:cuda/%.c=build/cuda/%.o)
NVCC_STRICT   = -Werror all-warnings
# one real architecture each, and the last one's PTX for what comes after
NVCC_FLAGS    = -std=c++17 -O3 -fmad=false -I. -Isrc -Xcompiler -fPIC,-Wall,-Wextra \
                $(NVCC_STRICT) --threads 2 -MMD -MP \
                $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
                -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))

build/cuda/%.cu.o: cuda/%.cu Makefile
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c $< -o $@
build/cuda/%.o: cuda/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) $(ENGINE_FP) -I. $(CUDA_INCLUDE) -c $< -o $@
$(PLUGIN): $(PLUGIN_OBJS) $(CUDA_SHARED_OBJS) cuda/exports.map
	$(CXX) $(SANITIZE) -shared $(PLUGIN_OBJS) $(CUDA_SHARED_OBJS) $(CUDA_LIBS) \
		-fopenmp -pthread -lm -ldl -lrt -Wl,--version-script=cuda/exports.map \
		-Wl,-z,defs $(patsubst %,-Wl$(comma)-rpath$(comma)%,$(sort $(dir $(filter %.so.9 %.so.13,$(CUDA_LIBS)) $(filter %.so.2,$(CUDA_PLACES))))) -o $@
cuda-plugin: $(if $(CUDA_FOUND),$(PLUGIN))
	@$(if $(CUDA_FOUND),true,echo 'the GPU backend is not built: nvcc, cuDNN or cuBLASLt of CUDA 13 is not here')
-include $(PLUGIN_OBJS:.o=.d)

# What the GPU is tested and measured with, where no PostgreSQL need be.
# GPU_KIT: headers and libraries that the machine lacks, unpacked (test/gpu/kit).
ifneq ($(GPU_KIT),)
ENGINE_CFLAGS += -I$(GPU_KIT)/usr/include -I$(GPU_KIT)/usr/include/x86_64-linux-gnu
GPU_LIB        = $(GPU_KIT)/usr/lib/x86_64-linux-gnu
# an rpath of the old kind holds for the libraries' own libraries too
ENGINE_LIBS   := -L$(GPU_LIB) -Wl,--disable-new-dtags -Wl,-rpath,$(GPU_LIB) -Wl,-rpath-link,$(GPU_LIB) $(ENGINE_LIBS)
PLAIN_LIBS    := -L$(GPU_LIB) $(PLAIN_LIBS)
endif
GPU_TESTS = device_ops device_tokens net_backends net_training net_repeat net_f16 net_graphs \
            clip clip_weights clip_golden \
            golden devices
gpu-tests: $(ENGINE) $(GPU_TESTS:%=build/test/%) $(EMULATED) build/emulated/other.so
check-gpu:
	@test/gpu/check
bench-gpu:
	@test/gpu/bench
gpu-kit:
	@test/gpu/kit

# Sanitizer build of the engine and its tests, in a tree of its own.
asan:
	@test/run_asan
fuzz:
	@test/run_asan fuzz

install-engine: $(ENGINE)
	$(MKDIR_P) '$(DESTDIR)$(bindir)'
	$(INSTALL_PROGRAM) $(ENGINE) '$(DESTDIR)$(bindir)/$(ENGINE)'
	@# the GPU backend, where it was built; core/plugin.c looks there
	if [ -f $(PLUGIN) ]; then $(MKDIR_P) '$(DESTDIR)$(bindir)/../lib/avcurate' && \
		$(INSTALL_SHLIB) $(PLUGIN) '$(DESTDIR)$(bindir)/../lib/avcurate/$(PLUGIN)'; fi
uninstall: uninstall-engine
uninstall-engine:
	rm -f '$(DESTDIR)$(bindir)/$(ENGINE)' '$(DESTDIR)$(bindir)/../lib/avcurate/$(PLUGIN)'

# ---- private installation ------------------------------------------------
prefix: all
	@test/cluster prefix
install-private: all
	@test/cluster install

# ---- checks --------------------------------------------------------------
deps:
	@test/deps
lint symbols:
	@test/lint
check-engine check-regress check-isolation check-pgtap check-tap check-lint \
check-demo:
	@test/run_checks $(@:check-%=%)
check-torch:
	@test/torch/checks
demo:
	@test/demo/run

reference:
	@[ -n "$(BDD100K)" ] && [ -n "$(WEIGHTS)" ] || \
		{ echo 'make reference BDD100K=folder WEIGHTS=file.pth [EPOCHS=10]' >&2; exit 2; }
	@AVC_CLUSTER=tmp_reference BDD100K="$(BDD100K)" WEIGHTS="$(WEIGHTS)" EPOCHS="$(EPOCHS)" test/demo/run

real:
	@[ -n "$(BDD100K)" ] || { echo 'make real BDD100K=folder [STEPS=1500] [TUNE=60] [SEEDS=1,2]' >&2; exit 2; }
	@AVC_CLUSTER=tmp_real AVC_DEMO=real BDD100K="$(BDD100K)" STEPS="$(STEPS)" TUNE="$(TUNE)" SEEDS="$(SEEDS)" test/demo/run

bench-slices:
	@test/perf/slices
bench-ingest:
	@test/perf/ingest
bench-detect:
	@test/perf/detect
bench-embeddings:
	@test/perf/embeddings
bench-features:
	@test/perf/features
bench-evaluation:
	@test/perf/evaluation
bench-checkpoint:
	@test/perf/checkpoint
bench-suggest:
	@test/perf/suggest
bench-search:
	@test/perf/search
bench-duplicates:
	@test/perf/duplicates
bench-engine: $(ENGINE)
	@test/perf/engine
bench-clip: $(ENGINE)
	@test/perf/clip/run
bench-torch: $(ENGINE)
	@test/perf/torch/run
bench:
	@test/perf/run
soak:
	@test/soak

clean-state:
	@test/cluster clean

help:
	@echo 'make reference   the published experiment on BDD100K: BDD100K=folder WEIGHTS=file.pth [EPOCHS=10]'
	@echo 'make real        base, controls and slices on the frames of BDD100K=folder: small, minutes to hours'
	@echo 'make demo        install what is missing, build, run the whole loop on generated footage'
	@echo 'make check       install what is missing, build, run every test'
	@echo 'make             build the extension and avcurate-engine'
	@echo 'make install     install both into the server that PG_CONFIG names (as root)'
	@echo 'make deps        install the Debian packages that the build needs'
	@echo 'make check-torch  weight files and batches held against PyPI'"'"'s PyTorch and torchvision'
	@echo 'make check-gpu    every operation on the GPU against plain loops, recorded runs, trainings; needs CUDA 13, no server'
	@echo 'make bench-gpu    training and inference on the GPU beside torchvision; needs what check-gpu needs'
	@echo 'make gpu-kit      fetch what check-gpu needs on a machine without network, into gpu-kit/'
	@echo 'make check-long  the same tests with larger numbers'
	@echo 'make bench       speed of the main paths beside plain PostgreSQL'
	@echo 'make bench-slices  refreshes of slices beside REFRESH of plain materialized views'
	@echo 'make bench-ingest  ingest beside COPY BINARY of the same bytes'
	@echo 'make bench-detect  detections by the shared engine beside the engine alone'
	@echo 'make bench-embeddings  CLIP embeddings by backfills beside the engine alone'
	@echo 'make bench-features  backfills beside bare JPEG decoding and plain UPDATE'
	@echo 'make bench-evaluation  COCO figures of 10,000 frames beside pycocotools (AVC_COCO, or from PyPI)'
	@echo 'make bench-checkpoint  step checkpoints of a ResNet-50 detector beside writing a file of that size'
	@echo 'make bench-suggest  suggest_slices beside reading what it reads'
	@echo 'make bench-search  nearest_frames beside the memory floor, plain SQL, pgvector (AVC_PGVECTOR) and LanceDB (AVC_LANCEDB)'
	@echo 'make bench-duplicates  duplicate_groups and the counts beside reading what they read'
	@echo 'make bench-engine  the engine alone: share of the peak by kind of operation, resident memory'
	@echo 'make bench-clip  CLIP in the engine beside PyTorch (AVC_TORCH, as bench-torch)'
	@echo 'make bench-torch  the engine beside PyTorch on the same weights and frames (AVC_TORCH, or about 5 GB from PyPI)'
	@echo 'make soak        random histories of slices against an oracle, for AVC_SOAK_MINUTES (10)'
	@echo 'make asan        engine tests under the address and undefined-behaviour sanitizers'
	@echo 'make fuzz        readers of label files, JPEG headers and weight files over AVC_FUZZ (1000000) broken inputs, sanitized'
	@echo 'make clean-state  stop and remove the private clusters and the private server copy'
	@echo 'make lint        include directions, exported symbols, comments on SQL objects'

.PHONY: gpu-tests check-gpu bench-gpu gpu-kit all engine engine-tests asan fuzz install-engine uninstall-engine prefix \
	install-private deps lint symbols check check-long check-engine \
	check-regress check-isolation check-pgtap check-tap check-lint \
	check-demo check-torch demo reference real bench bench-slices bench-ingest bench-detect \
	bench-embeddings bench-features bench-suggest bench-evaluation bench-checkpoint bench-search bench-duplicates bench-engine bench-clip bench-torch soak \
	clean-state help
