# Shared by the scripts under test/: where things are, who runs the server.
#
#   AVC_ROOT   the repository
#   AVC_STATE  folder of the private installation and clusters; the repository
#              itself, or a folder under TMPDIR when the user that runs the
#              server cannot reach the repository
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

find_state() {
	if [ -n "${AVC_STATE:-}" ]; then
		return
	fi
	if as_server test -x "$AVC_ROOT" 2>/dev/null &&
		as_server test -r "$AVC_ROOT/Makefile" 2>/dev/null; then
		AVC_STATE=$AVC_ROOT
	else
		AVC_STATE=${TMPDIR:-/tmp}/avcurate-$(id -u)-$(printf %s "$AVC_ROOT" | cksum | cut -d' ' -f1)
		mkdir -p "$AVC_STATE"
		chmod 755 "$AVC_STATE"
	fi
	export AVC_STATE
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
	find_state
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
