#!/usr/bin/env bash
# Runs the README's quick start as it stands there, and checks that it told of a Ready principal.
set -euo pipefail
cd "$(dirname "$0")/.."
type -P kubectl >/dev/null || export PATH="$(tests/control-plane/build.sh kubectl):$PATH"
steps=$(awk '/<!-- quick start:/ { found = 1 } found && /^```$/ { exit } take { print } found && /^```sh$/ { take = 1 }' README.md)
[ -n "$steps" ] || { echo "README.md has no quick start block" >&2; exit 1; }
trap 'make --no-print-directory down >&2' EXIT
told=$(bash -euxo pipefail -c "$steps")
printf '%s\n' "$told"
# Written so that grep does not find itself.
left=$(grep -lsa -- "$PWD/target/[l]ab/" /proc/[0-9]*/cmdline || true)
[ -z "$left" ] || { echo "make down left processes: $left" >&2; exit 1; }
for wanted in orders-api 'Prod DB Readonly' ManagedIdentity; do
  grep -q -- "$wanted" <<<"$told" || { echo "the quick start did not show $wanted" >&2; exit 1; }
done
