#!/usr/bin/env bash
# Installs the clients that the documentation shows, each from its own registry and of the version in
# its lock file, and prints a line `NAME FOLDER` for each. Kept in LAB_CACHE; a changed lock file or program
# makes a new folder. `install.sh NAME...` installs only these.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LAB_CACHE:-$HOME/.cache/entra-postgres-lab}/clients
all=(psycopg node-postgres pgx jdbc pgadmin)

fail() { echo "clients: $*" >&2; exit 1; }
need() { type -P "$1" >/dev/null || fail "$1 is missing: run 'tests/deps.sh clients', or install what Debian calls $2"; }

psycopg() { python_packages psycopg; }

pgadmin() { python_packages pgadmin; }

python_packages() {
    need python3 python3-venv
    python3 -m venv "$to" || fail "python3 cannot make a virtual environment: install what Debian calls python3-venv"
    "$to/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/$1/requirements.txt"
}

node-postgres() {
    need npm npm
    mkdir -p "$to"
    cp "$here"/node-postgres/{main.js,package.json,package-lock.json,.npmrc} "$to"
    (cd "$to" && npm ci --no-audit --no-fund --loglevel=error)
}

pgx() {
    need go golang
    (cd "$here/pgx" && CGO_ENABLED=0 go build -trimpath -o "$to/pgx-client" .)
}

jdbc() {
    need mvn maven
    need javac default-jdk-headless
    mvn --batch-mode --quiet --file "$here/jdbc/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$to/jars"
    (cd "$to/jars" && sha256sum --check --quiet --strict "$here/jdbc/jars.sha256") ||
        fail "a jar is not the file that was tried: not used"
    javac -Werror -Xlint -classpath "$to/jars/*" -d "$to/classes" "$here"/jdbc/*.java
}

# install NAME: its folder has the hash of all that goes into it in its name.
install() {
    local name=$1 hash to
    hash=$(cd "$here/$name" && find . -type f ! -name main.py -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12)
    to=$cache/$name-$hash
    if ! [ -e "$to/complete" ]; then
        echo "clients: installing $name" >&2
        rm -rf "$to"
        "$name" >&2
        touch "$to/complete"
    fi
    echo "$name $to"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
for name in "${@:-"${all[@]}"}"; do install "$name"; done
