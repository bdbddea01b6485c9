#!/usr/bin/env bash
# Installs what the MySQL and MariaDB tests and demonstrations need and the machine lacks.
#
#   scripts/install-mysql.sh            MariaDB's server, client programs and mariadb-backup, from apt
#   scripts/install-mysql.sh --all      and, below .deps, the versions that the tests run against
#   scripts/install-mysql.sh --bench    and sysbench, for the benchmarks
#
# No system-wide server is installed or started. Does nothing when everything is there.
# The first form works as root, or as an ordinary user who may use sudo; otherwise it
# prints the command to run and fails. --all needs no root: it takes the packages of
# other Debian releases, unpacks them below .deps, and runs what is in them through
# their own dynamic loader, by the scripts in .deps/NAME/bin.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

root="$(cd "$(dirname "$0")/.." && pwd)"
mirror="${PITR_DEBIAN_MIRROR:-http://deb.debian.org/debian}"
# Raise this when what is unpacked, or how it is run, changes.
recipe=1

want_all=no
want_bench=no
for argument in "$@"; do
    case "$argument" in
        --all) want_all=yes ;;
        --bench) want_bench=yes ;;
        *) echo "usage: $0 [--all] [--bench]" >&2; exit 2 ;;
    esac
done

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

has_mariadb() {
    local program
    for program in mariadbd mariadb-install-db mariadb mariadb-binlog mariadb-dump mariadb-backup mbstream; do
        have "$program" || return 1
    done
}

system_mariadb_is() {
    has_mariadb && "$(command -v mariadbd || echo /usr/sbin/mariadbd)" --version 2>/dev/null | grep -q " Ver $1\."
}

may_be_root() { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }

# The packages with the programs alone: mariadb-server would make a database and start it.
install_from_system() {
    local missing=()
    has_mariadb || missing+=(mariadb-server-core mariadb-client mariadb-backup)
    [ "$want_bench" = no ] || have sysbench || missing+=(sysbench)
    if [ "${#missing[@]}" -gt 0 ]; then
        if ! have apt-get; then
            echo "error: missing: ${missing[*]}, and this machine has no apt-get" >&2
            echo "hint: install MariaDB (server, client programs, mariadb-backup) with your package manager" >&2
            exit 1
        fi
        install_packages "${missing[@]}"
    fi
    # The user that servers run as for root, which mariadb-server would have made.
    if [ "$(id -u)" -eq 0 ] && ! getent passwd mysql >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /bin/false mysql
    fi
}

# Wants the packages of a Debian suite below .deps/NAME/root.
#   fetch NAME SUITE "PACKAGES" "PACKAGES TO TAKE WITHOUT WHAT THEY DEPEND ON"
fetch() {
    local name="$1" suite="$2" packages="$3" loose="$4" target="$root/.deps/$1" stamp="$2 $recipe" work
    [ "$(cat "$target/RECIPE" 2>/dev/null)" = "$stamp" ] && return
    if ! have apt-get || ! have dpkg-deb; then
        echo "error: apt-get and dpkg-deb are needed to fetch $name for the tests, and are not installed" >&2
        echo "hint: put the server's and client programs into $target/bin, and '$stamp' into $target/RECIPE" >&2
        exit 1
    fi
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] || install_packages debian-archive-keyring
    echo "fetching $packages of Debian $suite into .deps/$name" >&2
    mkdir -p "$root/.deps"
    work="$(mktemp -d "$root/.deps/fetch.XXXXXX")"
    # shellcheck disable=SC2064 # The directory of now.
    trap "rm -rf '$work'" EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/empty" "$work/tree/root"
    # Nothing is installed here, so that everything the packages depend on is taken.
    : >"$work/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
    # An index past its date is what a mirror that stands still has.
    local apt=(apt-get -q -y
        -o "Dir::State=$work" -o "Dir::State::status=$work/status" -o "Dir::State::lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o "Dir::Etc::sourcelist=$work/sources.list"
        -o "Dir::Etc::sourceparts=$work/empty" -o "Dir::Etc::preferences=$work/empty/preferences"
        -o "Dir::Etc::preferencesparts=$work/empty"
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=true
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::Retries=3
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    # shellcheck disable=SC2086 # Lists of words.
    {
        "${apt[@]}" update && "${apt[@]}" install --download-only $packages &&
            { [ -z "$loose" ] || (cd "$work/cache/archives" && "${apt[@]}" download $loose); }
    } >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        echo "error: cannot fetch $packages of Debian $suite from $mirror" >&2
        echo "hint: is the network up? PITR_DEBIAN_MIRROR names another mirror; then run again: $0 --all" >&2
        exit 1
    }
    local file
    for file in "$work"/cache/archives/*.deb; do
        case "${file##*/}" in
            perl* | libperl*) ;; # The scripts in Perl are not used.
            *) dpkg-deb --extract "$file" "$work/tree/root" ;;
        esac
    done
    make_bin "$work/tree"
    "$work/tree/bin/$(server_of "$name")" --version | sed 's/.* Ver /Ver /; s/ (.*//' >"$work/tree/VERSION"
    echo "$stamp" >"$work/tree/RECIPE"
    rm -rf "$target"
    mv "$work/tree" "$target"
    rm -rf "$work"
    echo ".deps/$name: $(cat "$target/VERSION")" >&2
}

server_of() { case "$1" in mysql*) echo mysqld ;; *) echo mariadbd ;; esac; }

# Writes DIR/bin/PROGRAM for the programs in DIR/root that the tests use, and removes
# what nobody does.
make_bin() {
    local dir="$1" loader program name
    rm -rf "$dir"/root/usr/share/{doc,man,locale,info,bug,lintian} "$dir/root/etc" "$dir/root/var"
    loader="$(cd "$dir/root" && find . -type f -name 'ld-linux*.so.*' -printf '%P\n' | head -n 1)"
    mkdir "$dir/bin"
    # With these the directory is what mariadb-install-db calls a --basedir.
    ln -s bin "$dir/sbin"
    ln -s root/usr/share "$dir/share"
    ln -s root/usr/lib "$dir/lib"
    for program in "$dir"/root/usr/sbin/* "$dir"/root/usr/bin/*; do
        name="${program##*/}"
        [ -L "$program" ] && continue
        case "$name" in
            mariadbd) wrapper "$loader" usr/sbin/"$name" "" >"$dir/bin/$name" ;;
            # The directory that it would insist on is the package's.
            mysqld) wrapper "$loader" usr/sbin/"$name" --secure-file-priv= >"$dir/bin/$name" ;;
            mariadb-install-db) script_wrapper >"$dir/bin/$name" ;;
            mysql | mysqladmin | mysqlbinlog | mysqldump | mysqlslap | mariadb | mariadb-admin | mariadb-binlog | \
                mariadb-dump | mariadb-slap | mariadb-backup | mbstream | my_print_defaults | resolveip)
                wrapper "$loader" usr/bin/"$name" >"$dir/bin/$name" ;;
            *) rm -f "$program"; continue ;;
        esac
        chmod 755 "$dir/bin/$name"
    done
}

# wrapper LOADER PROGRAM [SERVER OPTIONS]: a script that runs a program of root by root's
# loader. The third argument, also an empty one, says that the program is a server.
wrapper() {
    cat <<SCRIPT
#!/bin/sh
# Runs $2 of another Debian release with that release's own libraries.
self=\$(readlink -f "\$0")
root=\${self%/bin/*}/root
libraries=
for dir in "\$root"/usr/lib/*-linux-gnu* "\$root"/lib/*-linux-gnu*; do
    [ -d "\$dir" ] && libraries=\${libraries:+\$libraries:}\$dir
done
SCRIPT
    if [ "$#" -eq 3 ]; then
        cat <<SCRIPT
# These stand first or not at all.
first=
case "\${1-}" in
    --no-defaults | --print-defaults | --defaults-file=* | --defaults-extra-file=*) first=\$1; shift ;;
esac
exec "\$root/$1" --library-path "\$libraries" "\$root/$2" \${first:+"\$first"} --basedir="\$root/usr" \\
    --lc-messages-dir="\$root/usr/share/mysql" --character-sets-dir="\$root/usr/share/mysql/charsets" \\
    --plugin-dir="\$root/usr/lib/mysql/plugin" $3 "\$@"
SCRIPT
    else
        echo "exec \"\$root/$1\" --library-path \"\$libraries\" \"\$root/$2\" \"\$@\""
    fi
}

script_wrapper() {
    cat <<'SCRIPT'
#!/bin/sh
# Runs mariadb-install-db with the programs beside this one.
self=$(readlink -f "$0")
base=${self%/bin/*}
first=
case "${1-}" in
    --no-defaults | --defaults-file=* | --defaults-extra-file=*) first=$1; shift ;;
esac
exec sh "$base/root/usr/bin/mariadb-install-db" ${first:+"$first"} --basedir="$base" "$@"
SCRIPT
}

# Another MariaDB, or nobody to install it: then the tests' own copy does for them.
if [ "$want_all" = no ] || [ "$want_bench" = yes ] || has_mariadb || may_be_root; then
    install_from_system
fi
if [ "$want_all" = yes ]; then
    mariadb="mariadb-server-core mariadb-client-core mariadb-backup"
    system_mariadb_is 10.11 || fetch mariadb-10.11 bookworm "$mariadb" "mariadb-server mariadb-client"
    fetch mariadb-11.8 trixie "$mariadb" "mariadb-server mariadb-client"
    fetch mysql-9.7 sid "mysql-server-core mysql-client-core" ""
fi
