#!/usr/bin/env bash
# stage.sh NAME COMMAND...: runs one stage of a longer job and says how long it took.
# With STAGES=file it also adds a line there, for the summary that `stage.sh --summary` prints.
set -uo pipefail

if [ "$1" = --summary ]; then
    echo "== all stages ==" >&2
    cat "$STAGES" >&2
    exit
fi
name=$1
shift
echo "== $name ==" >&2
SECONDS=0
# Stages within this one are not for the summary.
env -u STAGES "$@"
status=$?
result=ok
[ "$status" -eq 0 ] || result="FAILED ($status)"
line=$(printf '%-28s %3d min %02d s  %s' "$name" $((SECONDS / 60)) $((SECONDS % 60)) "$result")
echo "== $line" >&2
[ -z "${STAGES:-}" ] || echo "$line" >>"$STAGES"
exit "$status"
