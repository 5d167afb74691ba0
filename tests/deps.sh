#!/usr/bin/env bash
# Checks that this machine has what the lab needs and installs what apt-get can install. Silent when
# everything is there. As an ordinary user it only says what to run.
# `deps.sh node`: also what the node is built with.
# `deps.sh clients`: also what the clients of the documentation are installed with.
set -euo pipefail

say() { echo "deps: $*" >&2; }
have() { type -P "$1" >/dev/null; }
packages=()
by_hand=()
need() { have "$1" || packages+=("$2"); }

need gcc gcc
need openssl openssl
need setpriv util-linux
need flock util-linux
need curl curl
[ -e /usr/include/stdio.h ] || packages+=(libc6-dev)

if [ "${1:-}" = node ]; then
    need pkg-config pkg-config
    [ -e /usr/include/seccomp.h ] || packages+=(libseccomp-dev)
fi
if [ "${1:-}" = clients ]; then
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
    need node nodejs
    need npm npm
    need javac default-jdk-headless
    need mvn maven
fi

# A server, its client and its headers, of one version, unless the user names another server.
if [ -z "${LAB_POSTGRES_BIN:-}" ]; then
    found=
    for bin in /usr/lib/postgresql/*/bin; do
        if [ -x "$bin/postgres" ] && [ -x "$bin/psql" ] && [ -x "$bin/pg_config" ] &&
            [ -e "$("$bin/pg_config" --includedir-server)/postgres.h" ]; then found=$bin; fi
    done
    if [ -z "$found" ]; then packages+=(postgresql postgresql-client "postgresql-server-dev-"); fi
elif ! [ -x "$LAB_POSTGRES_BIN/postgres" ]; then
    by_hand+=("LAB_POSTGRES_BIN=$LAB_POSTGRES_BIN has no postgres in it: name the bin folder of a PostgreSQL server, or unset it")
fi

# Go newer than 1.21 fetches the version that go.mod names by itself.
if ! have go || ! [[ $(GOTOOLCHAIN=local go version) =~ go1\.(2[1-9]|[3-9][0-9]) ]]; then
    by_hand+=("no Go on PATH: install Go 1.21 or newer, which fetches 1.26 by itself, from https://go.dev/dl")
fi
have cargo || by_hand+=("Rust is missing: install it from https://rustup.rs")

if [ ${#packages[@]} -gt 0 ]; then
    if ! have apt-get; then
        by_hand+=("missing, and there is no apt-get here: what Debian calls ${packages[*]}")
    elif [ "$(id -u)" -ne 0 ]; then
        list=${packages[*]/%-server-dev-/-server-dev-all}
        by_hand+=("missing: $list; run: sudo apt-get install --no-install-recommends $list")
    else
        say "installing ${packages[*]/%-server-dev-/-server-dev}"
        log=$(mktemp)
        apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >>"$log" 2>&1; }
        apt update || true
        # The headers' package has the version in its name: that of the newest server.
        version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
        if ! apt install --no-install-recommends "${packages[@]/%-server-dev-/-server-dev-${version:-all}}"; then
            tail -n 15 "$log" >&2
            by_hand+=("apt-get could not install ${packages[*]}: its output is in $log")
        fi
    fi
fi

if [ ${#by_hand[@]} -gt 0 ]; then
    for line in "${by_hand[@]}"; do say "$line"; done
    exit 1
fi
