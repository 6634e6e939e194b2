# What check and bench share: where the GPU is, and building for it.
# Sourced; AVC_ROOT is the working directory afterwards.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cd "$AVC_ROOT"
LOGS=$AVC_ROOT/tmp_logs_gpu
mkdir -p "$LOGS"
PLUGIN=${AVC_CUDA_PLUGIN:-$AVC_ROOT/avcurate_cuda.so}

# Whether there is a GPU, or a backend that plays one.
gpu_seen() {
	[ -n "${AVC_CUDA_PLUGIN:-}" ] || [ -e /dev/nvidiactl ] || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]
}

# Whether the headers that the engine needs are here.
headers_found() {
	local header
	for header in jansson.h turbojpeg.h dnnl.h utf8proc.h zlib.h; do
		echo "#include <$header>"
	done >"$LOGS/headers.c"
	"${CC:-cc}" -fsyntax-only "$LOGS/headers.c" 2>"$LOGS/headers.log"
}

# What is missing: from the kit, if it was brought along, else from Debian.
get_headers() {
	local deb
	headers_found && return 0
	if ls gpu-kit/*.deb >/dev/null 2>&1; then
		for deb in gpu-kit/*.deb; do
			dpkg-deb -x "$deb" build/gpu-kit
		done
		export GPU_KIT=$AVC_ROOT/build/gpu-kit
	elif ! test/deps || ! headers_found; then
		cat "$LOGS/headers.log" >&2
		die "headers are missing and cannot be installed: run make gpu-kit where there is a network and bring gpu-kit/ along"
	fi
}

# Engine, tests and the GPU's backend, unless AVC_CUDA_PLUGIN names one.
build_for_gpu() {
	local jobs
	jobs=$(nproc)
	mkdir -p build
	get_headers
	make -s -j"$jobs" gpu-tests >"$LOGS/build.log" 2>&1 ||
		{ tail -40 "$LOGS/build.log"; die "the build failed"; }
	[ -n "${AVC_CUDA_PLUGIN:-}" ] && return 0
	# warnings of a compiler that nobody has seen are shown, and stop nothing
	make -s -j"$jobs" NO_PGXS=1 cuda-plugin NVCC_STRICT= CUDA_ARCHS="$(compute_capability)" >"$LOGS/plugin.log" 2>&1 ||
		{ tail -60 "$LOGS/plugin.log"; die "the GPU backend did not build"; }
	[ -r "$PLUGIN" ] || { cat "$LOGS/plugin.log"; die "the GPU backend was not built"; }
	grep -i warning "$LOGS/plugin.log" || true
}

# Of the GPU here: "90"; all that are built for where nvidia-smi cannot say.
compute_capability() {
	local it
	it=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
	case $it in
		[0-9]*) echo "$it" ;;
		*) echo "75 80 86 89 90 100 120" ;;
	esac
}
