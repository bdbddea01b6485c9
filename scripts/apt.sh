# How the install scripts get Debian packages; to be sourced.
#
# Works as root, or as an ordinary user who may use sudo; otherwise prints the command
# to run and fails.

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "error: need root to run: $*" >&2
        echo "hint: ask an administrator to run it, then try again" >&2
        exit 1
    fi
}

lists_are_fresh=no

# Package lists may be empty on a fresh container, so "no such package" is believed
# only after one update.
refresh_lists() {
    [ "$lists_are_fresh" = yes ] && return
    as_root apt-get update -q >&2
    lists_are_fresh=yes
}

has_package() { apt-cache show "$1" >/dev/null 2>&1; }

install_packages() {
    refresh_lists
    echo "installing: $*" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}
