# Shared by the scripts under test/: where things are, who runs the server.
#
#   AVC_ROOT   the repository
#   AVC_STATE  folder of the private installation and clusters
#   AVC_RUNAS  that user: ourselves, or postgres when we are root

AVC_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
AVC_PORT=${AVC_PORT:-5499}
export AVC_ROOT

say() { printf '== %s\n' "$*"; }
die() { printf 'avcurate: %s\n' "$*" >&2; exit 1; }

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

# Folders of the user that runs the server may not be reachable by it (a
# clone below /root): then everything runs in a copy below TMPDIR.  Call as
# relocate SCRIPT "$@", first thing.
relocate() {
	local script=$1 copy
	shift
	[ -z "${AVC_RELOCATED:-}" ] || return 0
	if as_server test -r "$AVC_ROOT/Makefile" && as_server test -x "$AVC_ROOT/test"; then
		return 0
	fi
	copy=${TMPDIR:-/tmp}/avcurate-$(id -u)-$(printf %s "$AVC_ROOT" | cksum | cut -d' ' -f1)
	say "user $AVC_RUNAS cannot read $AVC_ROOT: working in $copy"
	mkdir -p "$copy"
	chmod 755 "$copy"
	(cd "$copy" && rm -rf src sql test expected)
	tar -C "$AVC_ROOT" --exclude=./tmp_* --exclude=./build* --exclude=./.git --exclude='*.o' -cf - . |
		tar -C "$copy" --no-same-owner -xf -
	chmod -R a+rX "$copy"
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

# Paths inside the private installation.
private_paths() {
	AVC_STATE=${AVC_STATE:-$AVC_ROOT}
	export AVC_STATE
	AVC_PREFIX=$AVC_STATE/tmp_install
	local bindir
	bindir=$("$(system_pg_config)" --bindir)
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
	version=$("$config" --version)
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

# Install ours into the private copy.
install_private() {
	make_prefix
	make -s -C "$AVC_ROOT" install PG_CONFIG="$AVC_PG_CONFIG" ${COPT:+COPT="$COPT"} >/dev/null
}
