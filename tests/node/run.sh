#!/usr/bin/env bash
# A Kubernetes node on this machine: containerd and kubelet in mount and process namespaces of their
# own. When the namespaces' first process is killed, the kernel takes everything with it: pods,
# shims, mounts. What it cannot take (cgroups, made folders) is removed here, also when the lab was
# killed: then its end of the pipe closes.
#
#   run.sh check                     says on stderr what this machine lacks; the address on stdout
#   run.sh run DIR PROGRAMS CGROUP   runs until stdin ends. DIR: containerd.toml, kubelet.yaml,
#                                    image.tar, flags; and the logs. PROGRAMS: what build.sh made
set -euo pipefail

here=${BASH_SOURCE[0]}
# Where the programs leave things whatever their settings say: covered inside, made and removed here.
covered=(/run /var/lib/kubelet /var/log/pods /var/log/containers)
marker=.made-by-the-lab
# What kubelet wants of the kernel and would set for the whole machine.
kernel=(vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000)
# Version 1 has a tree for each of these, version 2 has all in one.
v1=(cpu cpuacct cpuset devices freezer memory pids)
v2=(cpu cpuset memory pids)

lacks() { echo "no Kubernetes node on this machine: $*" >&2; exit 1; }
mounts() { awk -v type="$1" '$3 == type { print $2 }' /proc/mounts; }
in_namespaces() { unshare --mount --pid --fork --kill-child --mount-proc -- "$@"; }

# Makes CGROUP in every tree.
cgroup_make() {
    local tree controller root=/sys/fs/cgroup
    if [ -e $root/cgroup.controllers ]; then
        # If the machine has hugetlb, kubelet calls a group without it incomplete.
        for controller in "${v2[@]}" hugetlb; do
            echo "+$controller" 2>/dev/null >$root/cgroup.subtree_control || true
        done
    fi
    for tree in $(mounts cgroup) $(mounts cgroup2); do mkdir "$tree/$1" || return; done
}

# Removes it with all groups below it: empty at once, or as soon as its last process has gone.
cgroup_remove() {
    local tree left _
    for _ in $(seq 100); do
        left=
        for tree in $(mounts cgroup) $(mounts cgroup2); do
            [ ! -d "$tree/$1" ] || find "$tree/$1" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
        done
        [ -n "$left" ] || return 0
        sleep 0.1
    done
}

groups() { { mounts cgroup; mounts cgroup2; } | while read -r tree; do ls -d "$tree"/lab-node-* 2>/dev/null || true; done; }

# Those whose lab was killed together with this script: their names begin with the lab's process id.
cgroup_sweep() {
    local path name pid
    for path in $(groups); do
        name=${path##*/}
        pid=${name#lab-node-}
        pid=${pid%%-*}
        [ -d "/proc/$pid" ] || cgroup_remove "$name"
    done
}

check() {
    local said controller name=lab-node-$$-check root=/sys/fs/cgroup address
    [ "$(uname -s)" = Linux ] || lacks "it needs Linux"
    [ "$(id -u)" = 0 ] || lacks "it needs root: run as root, in a virtual machine or a privileged container"
    for program in unshare setpriv tar ldd awk find hostname; do
        type -P $program >/dev/null || lacks "$program is missing"
    done
    said=$(in_namespaces mount -t tmpfs lab /run 2>&1) ||
        lacks "own mount and process namespaces are refused (${said//$'\n'/ })"
    if [ -e $root/cgroup.controllers ]; then
        for controller in "${v2[@]}"; do
            grep -qw $controller $root/cgroup.controllers ||
                lacks "$root (cgroup version 2) has no controller $controller"
        done
    else
        for controller in "${v1[@]}"; do
            awk -v name=$controller '$3 == "cgroup" && $4 ~ "(^|,)" name "(,|$)" { found = 1 }
                END { exit !found }' /proc/mounts ||
                lacks "cgroup controller $controller is not mounted (cgroup version 1)"
        done
    fi
    if ! said=$(cgroup_make $name 2>&1); then
        cgroup_remove $name
        lacks "cgroups cannot be made (${said//$'\n'/ })"
    fi
    if [ -e $root/cgroup.controllers ]; then
        for controller in "${v2[@]}"; do
            grep -qw $controller "$root/$name/cgroup.controllers" || {
                cgroup_remove $name
                lacks "cgroup controller $controller cannot be given to a group (busy $root/cgroup.subtree_control?)"
            }
        done
    fi
    cgroup_remove $name
    { : </dev/kmsg; } 2>/dev/null || lacks "/dev/kmsg cannot be read, and kubelet wants it"
    address=$(hostname -I | awk '{ print $1 }') || lacks "'hostname -I' failed"
    [ -n "$address" ] || lacks "it has no address but loopback, and kubelet refuses that"
    echo "$address"
}

holder=
clear_up() {
    local folder
    if [ -n "$holder" ]; then
        kill -KILL "$holder" 2>/dev/null || true
        wait "$holder" 2>/dev/null || true
    fi
    cgroup_remove "$1"
    # Another node would lose what it has mounted there.
    [ -z "$(groups)" ] || return 0
    for folder in "${covered[@]}"; do
        [ ! -e "$folder/$marker" ] || { rm "$folder/$marker" && rmdir "$folder"; }
    done
}

run() {
    local dir=$1 programs=$2 cgroup=$3 folder status=0
    # shellcheck disable=SC2064 # the name as it is now
    trap "clear_up $cgroup" EXIT
    trap 'exit 143' INT TERM HUP
    cgroup_sweep
    for folder in "${covered[@]}"; do
        [ -d "$folder" ] || { mkdir -p "$folder" && touch "$folder/$marker"; }
    done
    cgroup_make "$cgroup"
    setpriv --pdeathsig KILL -- "${BASH}" "$here" hold "$dir" "$programs" </dev/null &
    holder=$!
    while kill -0 $holder 2>/dev/null; do
        # Over 128: nothing said for a second. 1: the other end is closed.
        read -r -t 1 _ || status=$?
        [ $status -gt 128 ] || break
    done
}

# The first process of the namespaces.
inside() {
    local dir=$1 programs=$2 folder pair flags
    for folder in "${covered[@]}"; do mount -t tmpfs lab "$folder"; done
    for pair in "${kernel[@]}"; do
        [ -e "/proc/sys/${pair%=*}" ] || continue
        folder=$(mktemp /run/kernel.XXXXXX)
        echo "${pair#*=}" >"$folder"
        mount --bind "$folder" "/proc/sys/${pair%=*}"
    done
    # containerd looks for its shim and for runc here.
    export PATH=$programs:$PATH
    containerd --config "$dir/containerd.toml" >>"$dir/containerd.log" 2>&1 &
    until ctr --address /run/containerd.sock version >/dev/null 2>&1; do
        kill -0 $! || exit 1
        sleep 0.1
    done
    ctr --address /run/containerd.sock --namespace k8s.io images import --no-unpack "$dir/image.tar" \
        >>"$dir/containerd.log" 2>&1
    mapfile -t flags <"$dir/flags"
    kubelet --config "$dir/kubelet.yaml" "${flags[@]}" >>"$dir/kubelet.log" 2>&1 &
    wait -n || true
    exit 1
}

case ${1:-} in
    check) check ;;
    run) run "$2" "$3" "$4" ;;
    hold) exec unshare --mount --pid --fork --kill-child --mount-proc -- "${BASH}" "$here" inside "$2" "$3" ;;
    inside) inside "$2" "$3" ;;
    *) sed -n '2,10p' "$here" >&2; exit 2 ;;
esac
