# Shared by the scripts under test/: where things are, who runs the server.
#
#   AVC_ROOT   the repository
#   AVC_STATE  folder of the private installation and clusters
#   AVC_SCRATCH  folder of their sockets
#   AVC_RUNAS  that user: ourselves, or postgres when we are root

AVC_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
AVC_PORT=${AVC_PORT:-5499}
export AVC_ROOT

say() { printf '== %s\n' "$*"; }
die() { printf 'avcurate: %s\n' "$*" >&2; exit 1; }

# The caller's language and umask change nothing here: messages are compared
# in English, and the server's user must be able to read what is made.  (LANG
# too: PostgreSQL's test programs take LC_ALL away.)
unset LANGUAGE ${!LC_*}
export LANG=C.UTF-8 LC_ALL=C.UTF-8
umask 022

case $AVC_ROOT in
	*[[:space:]:\'\"\$\#\\]*) die "make and PATH cannot work in a folder of this name: $AVC_ROOT; clone into one without blanks, colons, quotes, \$, # or \\" ;;
esac

if [ "$(id -u)" = 0 ]; then
	AVC_RUNAS=${AVC_RUNAS:-postgres}
else
	AVC_RUNAS=$(id -un)
fi

# Run a command as the user of the server.
as_server() {
	if [ "$(id -un)" = "$AVC_RUNAS" ]; then
		"$@"
	else
		runuser -u "$AVC_RUNAS" -- "$@"
	fi
}

# Run a command as root, with sudo where we are not root.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "needs root for: $*"
	fi
}

# copy_tree FOLDER: make it a copy of the repository that everybody can read.
copy_tree() {
	chmod 755 "$1"
	# what is gone from the tree goes; objects stay, they are up to date or not
	find "$1"/src "$1"/sql "$1"/test "$1"/expected -type f \
		! -name '*.[od]' -delete 2>/dev/null || true
	tar -C "$AVC_ROOT" --exclude=./tmp_* --exclude=./demo_output --exclude=./build* --exclude=./.git --exclude='*.o' -cf - . |
		tar -C "$1" --no-same-owner -xf -
	# but not the data of clusters there, which are for their server alone
	find "$1" -path "$1/tmp_*" -prune -o -exec chmod a+rX {} +
}

# Folders of the user that runs the server may not be reachable by it (a
# clone below /root): then everything runs in a copy below TMPDIR.  Call as
# relocate SCRIPT "$@", first thing.
relocate() {
	local script=$1 copy tmp=${TMPDIR:-/tmp}
	shift
	[ -z "${AVC_RELOCATED:-}" ] || return 0
	id "$AVC_RUNAS" >/dev/null 2>&1 || die "there is no user $AVC_RUNAS: run make deps"
	if as_server test -r "$AVC_ROOT/Makefile" && as_server test -x "$AVC_ROOT/test"; then
		return 0
	fi
	as_server test -x "$tmp" || tmp=/tmp
	copy=$tmp/avcurate-$(id -u)-$(printf %s "$AVC_ROOT" | cksum | cut -d' ' -f1)
	say "user $AVC_RUNAS cannot read $AVC_ROOT: working in $copy" >&2
	mkdir -p "$copy"
	# somebody else's folder of that name would be somebody else's code
	[ -O "$copy" ] && [ ! -L "$copy" ] || die "$copy belongs to another user: remove it"
	at_work "$copy" >/dev/null || copy_tree "$copy"
	export AVC_SHARED=${AVC_SHARED:-$(dirname "$AVC_ROOT")/shared}
	export AVC_OUT=${AVC_OUT:-$AVC_ROOT/demo_output}
	export AVC_RELOCATED=1
	exec "$copy/test/$script" "$@"
}

# The server to copy: PG_CONFIG or Debian's 15.
system_pg_config() {
	if [ -n "${PG_CONFIG:-}" ]; then
		echo "$PG_CONFIG"
	elif [ -x /usr/lib/postgresql/15/bin/pg_config ]; then
		echo /usr/lib/postgresql/15/bin/pg_config
	else
		command -v pg_config || die "PostgreSQL 15 is not installed; run make deps"
	fi
}

# Paths inside the private installation.  Sockets have short paths and are the
# server's user's alone: the private clusters ask for no password.
private_paths() {
	AVC_STATE=${AVC_STATE:-$AVC_ROOT}
	AVC_SCRATCH=/tmp/avc-$(printf %s "$AVC_STATE" | cksum | cut -d' ' -f1)
	export AVC_STATE AVC_SCRATCH
	AVC_PREFIX=$AVC_STATE/tmp_install
	local bindir
	bindir=$("$(system_pg_config)" --bindir) || die "no pg_config: run make deps, or set PG_CONFIG"
	AVC_BINDIR=$AVC_PREFIX$bindir
	AVC_PG_CONFIG=$AVC_BINDIR/pg_config
	export AVC_PREFIX AVC_BINDIR AVC_PG_CONFIG
}

# Copy the server's programs, libraries and shared files below tmp_install,
# keeping the layout: they find each other by relative path.
make_prefix() {
	private_paths
	local config version item
	config=$(system_pg_config)
	version="$("$config" --version) of $("$config" --bindir)"
	if [ -f "$AVC_PREFIX/.version" ] && [ "$(cat "$AVC_PREFIX/.version")" = "$version" ]; then
		return
	fi
	say "copying $version to $AVC_PREFIX"
	rm -rf "$AVC_PREFIX"
	for item in bindir pkglibdir sharedir; do
		item=$("$config" --$item)
		mkdir -p "$AVC_PREFIX$(dirname "$item")"
		[ -e "$AVC_PREFIX$item" ] || cp -aL "$item" "$AVC_PREFIX$item"
	done
	item=$("$config" --includedir)
	mkdir -p "$AVC_PREFIX$(dirname "$item")"
	[ -e "$AVC_PREFIX$item" ] || ln -s "$item" "$AVC_PREFIX$item"
	chmod -R a+rX "$AVC_PREFIX"
	echo "$version" >"$AVC_PREFIX/.version"
}

# server_pid DATA: the process of the server that runs there, if one does.  The
# file alone is no proof: after a crash its number may be another process's.
server_pid() {
	local pid
	pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 1
	[ "/proc/$pid/cwd" -ef "$1" ] && echo "$pid"
}

# Stop every server whose data is below the folders, also a killed run's.
stop_servers() {
	local file pid tries
	find "$@" -name postmaster.pid 2>/dev/null | while read -r file; do
		pid=$(server_pid "$(dirname "$file")") || continue
		kill -QUIT "$pid"
		for tries in $(seq 50); do
			[ -d "/proc/$pid" ] || break
			sleep 0.2
		done
	done
}

# at_work FOLDER: the process of a run that is going on there, if one is.
at_work() {
	local pid
	pid=$(cat "$1/tmp_run.pid" 2>/dev/null) || return 1
	[ "$pid" != $$ ] && grep -qs test/ "/proc/$pid/cmdline" &&
		[ "/proc/$pid/cwd" -ef "$1" ] && echo "$pid"
}

# One run at a time in a working tree: build and clusters are shared.
alone() {
	local pid
	[ -z "${AVC_RUN:-}" ] || return 0
	if pid=$(at_work "$AVC_STATE"); then
		die "process $pid is at work in $AVC_STATE: wait for it or end it"
	fi
	echo $$ >"$AVC_STATE/tmp_run.pid"
	export AVC_RUN=$$
}

# scratch NAME: an empty folder of the server's user
scratch() {
	as_server mkdir -p -m 700 "$AVC_SCRATCH" &&
		as_server test -O "$AVC_SCRATCH" &&
		as_server rm -rf "$AVC_SCRATCH/$1" &&
		as_server mkdir "$AVC_SCRATCH/$1" ||
		die "cannot make $AVC_SCRATCH/$1: remove what is in its place"
}

# Install ours into the private copy.
install_private() {
	make_prefix
	make -s -C "$AVC_ROOT" install PG_CONFIG="$AVC_PG_CONFIG" ${COPT:+COPT="$COPT"} >/dev/null
}
