#!/usr/bin/env bash
# Builds the control plane's programs from the Go modules beside this file, once per content of
# these modules, and prints the folder they are in on stdout (everything else goes to stderr).
# Needs no cargo, so that it can run beside the first cargo build.
#
#   build.sh [control-plane | helm | kubectl | all | node | flux]
#
# `node` is kubelet with the containerd and runc of ../node, `flux` the program in ../flux; each in a folder of
# its own.
#
# KUBEBUILDER_ASSETS: a folder that holds etcd and kube-apiserver (and kube-controller-manager).
# LAB_CACHE: where builds are kept; ~/.cache/entra-postgres-lab by default.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
want=${1:-all}
kubernetes=v1.37.2
flags=(-trimpath -buildvcs=false)
strip="-s -w"
containerd_tags="no_btrfs no_devmapper no_zfs"
# kubelet has every pod's first container confined by seccomp, so runc must know it.
runc_tags="seccomp urfave_cli_no_docs"
version="-X k8s.io/component-base/version.gitVersion=$kubernetes \
-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
export CGO_ENABLED=0

say() { echo "control plane: $*" >&2; }
fail() { say "$@"; exit 1; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ "$want" = control-plane ]; then
    for program in etcd kube-apiserver kube-controller-manager; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] ||
            fail "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $program: unset it to build one, or add it"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

command -v go >/dev/null || fail "no go on PATH: run 'make deps', or install Go 1.21 or newer, which fetches 1.26 by itself, from https://go.dev/dl"
# A subshell each: a pipe that ends early would hide a failure.
go_version=$(cd "$here/kubernetes" && go env GOVERSION)
modules=("$here"/*/)
choices="${flags[*]} $strip $version"
if [ "$want" = node ]; then
    modules=("$here/kubernetes/" "$here"/../node/*/)
    choices+=" $containerd_tags $runc_tags"
fi
sources=("${modules[@]/%/go.mod}" "${modules[@]/%/go.sum}")
if [ "$want" = flux ]; then
    sources=("$here"/../flux/{go.mod,go.sum,main.go})
fi
hash=$({ cat "${sources[@]}"; echo "$choices $go_version $(uname -m)"; } | sha256sum | cut -c1-16)
cache=${LAB_CACHE:-$HOME/.cache/entra-postgres-lab}/control-plane
bin=$cache/$hash
logs=$cache/$hash.log

minutes() { echo "$(($1 / 60)) min $(($1 % 60)) s"; }

# Tells every 20 seconds what is being done and for how long, until stopped by `hush`.
progress() {
    local begin=$SECONDS
    (
        trap 'kill $! 2>/dev/null; exit' TERM
        while sleep 20 & wait $!; do
            kill -0 $$ 2>/dev/null || exit
            say "$1, $(minutes $((SECONDS - begin)))"
        done
    ) >&2 9>&- &
    ticker=$!
}
hush() { [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true; ticker=; }
ticker=
out=
compiler=
# An interrupted build leaves nothing behind, least of all a compiler that still holds the lock.
trap 'hush; [ -z "$compiler" ] || kill "$compiler" 2>/dev/null; [ -z "$out" ] || rm -rf "$out"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# build MODULE LDFLAGS PACKAGE=NAME...: each program appears under its name only when it is whole.
# Takes `tags` from the caller.
build() {
    local module=$1 ldflags=$2 names=() packages=() pair
    shift 2
    for pair in "$@"; do
        if [ ! -x "$bin/${pair##*=}" ]; then
            names+=("${pair##*=}")
            packages+=("${pair%%=*}")
        fi
    done
    [ ${#names[@]} -gt 0 ] || return 0
    local begin=$SECONDS status=0 made
    out=$(mktemp -d "$cache/building.XXXXXX")
    say "building ${names[*]} with $go_version"
    progress "building ${names[*]}"
    (cd "$here/$module" && exec go build "${flags[@]}" -tags "${tags:-}" -ldflags "$ldflags" -o "$out/" "${packages[@]}") >>"$logs" 2>&1 9>&- &
    compiler=$!
    wait "$compiler" || status=$?
    compiler=
    hush
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$logs" >&2
        fail "go build of ${names[*]} failed; the whole output is in $logs"
    fi
    for pair in "$@"; do
        # A program is called as the last part of its package, which is not always its name.
        made=${pair%%=*}
        made=${made##*/}
        [ "$made" != v3 ] || made=server
        [ ! -e "$out/$made" ] || mv "$out/$made" "$bin/${pair##*=}"
    done
    rm -rf "$out"
    out=
    say "built ${names[*]} in $(minutes $((SECONDS - begin)))"
}

control_plane() {
    build etcd "$strip" go.etcd.io/etcd/server/v3=etcd
    build kubernetes "$strip $version" \
        k8s.io/kubernetes/cmd/kube-apiserver=kube-apiserver \
        k8s.io/kubernetes/cmd/kube-controller-manager=kube-controller-manager
}
kubectl() {
    type -P kubectl >/dev/null || build kubernetes "$strip $version" k8s.io/kubernetes/cmd/kubectl=kubectl
}
helm() { build helm "$strip" helm.sh/helm/v4/cmd/helm=helm; }
node() {
    local cmd=github.com/containerd/containerd/v2/cmd
    tags=$containerd_tags build ../node/containerd "$strip" \
        $cmd/containerd=containerd $cmd/ctr=ctr $cmd/containerd-shim-runc-v2=containerd-shim-runc-v2
    CGO_ENABLED=1 tags=$runc_tags build ../node/runc "$strip" \
        github.com/opencontainers/runc=runc
    build kubernetes "$strip $version" k8s.io/kubernetes/cmd/kubelet=kubelet
}
flux() { build ../flux "$strip" entra-postgres-operator/tests/flux=flux; }

needed=()
case $want in
    control-plane) needed=(etcd kube-apiserver kube-controller-manager) ;;
    helm) needed=(helm) ;;
    kubectl) type -P kubectl >/dev/null || needed=(kubectl) ;;
    all)
        needed=(helm)
        [ -n "${KUBEBUILDER_ASSETS:-}" ] || needed+=(etcd kube-apiserver kube-controller-manager)
        type -P kubectl >/dev/null || needed+=(kubectl)
        ;;
    node) needed=(kubelet containerd containerd-shim-runc-v2 ctr runc) ;;
    flux) needed=(flux) ;;
    *) fail "unknown set $want: control-plane, helm, kubectl, all, node or flux" ;;
esac

complete() {
    local program
    for program in "${needed[@]}"; do [ -x "$bin/$program" ] || return 1; done
}

if ! complete; then
    mkdir -p "$bin"
    exec 9>"$cache/lock"
    if ! flock -n 9; then
        say "waiting for another build in $cache"
        progress "waiting for another build"
        # Several sets share the lock: what is wanted may be there before the other build ends.
        until flock -w 2 9 || complete; do :; done
        hush
    fi
    complete || case $want in
        control-plane) control_plane ;;
        helm) helm ;;
        kubectl) kubectl ;;
        node) node ;;
        flux) flux ;;
        all)
            [ -n "${KUBEBUILDER_ASSETS:-}" ] || control_plane
            kubectl
            helm
            ;;
    esac
    complete || fail "the build ended, but not all of ${needed[*]} are in $bin"
fi
echo "$bin"
