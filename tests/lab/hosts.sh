#!/bin/bash
# Simulated hosts on one machine: each has its own network, host name, processes, /dev/shm and mounts, and sits on a
# bridge behind a link of a set rate. Files are shared, as over NFS. Needs root, and iproute2; one lab at a time.
#
#   hosts.sh up N [RATE]       RATE as tc says it (200mbit, 1gbit); none: as fast as it goes
#   hosts.sh down
#   hosts.sh rate RATE|none    reshapes all links
#   hosts.sh count             bytes that each host has sent and received
#   hosts.sh exec hK COMMAND   runs a command on host K
#   hosts.sh rsh hK "COMMAND"  the same in the manner of ssh, as an mpirun wants it (also when called as rsh.sh)
#   hosts.sh kill hK           powers host K off: SIGKILL to all its processes
#   hosts.sh start hK          brings it back
set -euo pipefail
HERE=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
STATE=${LAB_STATE:-${TMPDIR:-/tmp}/mpisign-lab}/hosts
NET=10.77.0
IF=lab0 # the bridge and every host's interface: one "-iface lab0" fits all
[ "$(basename "$0")" = rsh.sh ] && set -- rsh "$@"
mkdir -p "$STATE"

hosts() { find "$STATE" -name 'h*.pid' -printf '%f\n' | sed 's/\.pid$//' | sort -V; }
pid_of() { cat "$STATE/$1.pid"; }

# A burst just over one 64 KiB frame: a larger one lets small messages beat the rate, a smaller one caps fast links.
shape() { # PID|"" DEVICE RATE
    local inside=()
    [ -n "$1" ] && inside=(nsenter -t "$1" -n)
    "${inside[@]}" tc qdisc del dev "$2" root 2>/dev/null || true
    [ "$3" = none ] || "${inside[@]}" tc qdisc add dev "$2" root tbf rate "$3" burst 70kb latency 50ms
}

# The first process of a host mounts what is its own and then waits.
INIT='
    hostname $HOST; mount -t tmpfs -o size=4g tmpfs /dev/shm; mkdir -p /run/node; mount -t tmpfs tmpfs /run/node
    mount --bind $STATE/hosts /etc/hosts; mount --bind $STATE/resolv.conf /etc/resolv.conf
    mkdir -p /run/node/cg; mount --rbind /sys/fs/cgroup /run/node/cg
    mount -t sysfs sysfs /sys; mount --rbind /run/node/cg /sys/fs/cgroup
    ip link set lo up; trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done'

start() { # K RATE
    local k=$1 host=h$1 outer inner=
    HOST=$host STATE=$STATE setsid unshare -n -u -i -m -p -f --mount-proc --propagation private \
        bash -c "$INIT" </dev/null >"$STATE/$host.log" 2>&1 &
    outer=$!
    for _ in $(seq 200); do
        inner=$(awk '{print $1}' "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        [ -n "$inner" ] && [ "$(nsenter -t "$inner" -u hostname 2>/dev/null)" = "$host" ] && break
        sleep 0.01
    done
    echo "$inner" >"$STATE/$host.pid"
    ip link add "v$host" type veth peer name $IF netns "$inner"
    ip link set "v$host" master $IF up
    nsenter -t "$inner" -n sh -c "ip addr add $NET.$k/24 dev $IF; ip link set $IF up
        sysctl -qw net.ipv4.tcp_slow_start_after_idle=0 net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true"
    shape "$inner" $IF "$2"
    shape "" "v$host" "$2"
    for _ in $(seq 200); do
        nsenter -t "$inner" -m test -d /sys/class/net/$IF/statistics 2>/dev/null &&
            nsenter -t "$inner" -m grep -q h1 /etc/hosts && break
        sleep 0.01
    done
}

case ${1:-} in
up)
    mkdir -p /run/node
    : >"$STATE/resolv.conf"
    echo "${3:-none}" >"$STATE/rate"
    { echo 127.0.0.1 localhost; echo $NET.254 ctl "$(hostname)"; for k in $(seq "$2"); do echo $NET.$k h$k; done; } \
        >"$STATE/hosts"
    sysctl -qw net.ipv4.tcp_allowed_congestion_control="reno cubic $(sysctl -n net.ipv4.tcp_congestion_control)" \
        2>/dev/null || true
    ip link add $IF type bridge
    ip link set $IF up
    ip addr add $NET.254/24 dev $IF
    for k in $(seq "$2"); do start "$k" "${3:-none}"; done
    ;;
start) start "${2#h}" "$(cat "$STATE/rate")" ;;
rate)
    for h in $(hosts); do
        shape "$(pid_of "$h")" $IF "$2"
        shape "" "v$h" "$2"
    done
    echo "$2" >"$STATE/rate"
    ;;
exec)
    host=$2
    shift 2
    exec nsenter -t "$(pid_of "$host")" -n -u -i -m -p --wd="$PWD" -- env TMPDIR=/run/node "$@"
    ;;
rsh)
    shift
    while [[ $1 == -* ]]; do shift; done
    host=$1
    shift
    exec nsenter -t "$(pid_of "$host")" -n -u -i -m -p --wd="$PWD" -- env TMPDIR=/run/node /bin/sh -c "$*"
    ;;
count)
    for h in $(hosts); do
        at=/sys/class/net/v$h/statistics
        echo "$h sent $(cat "$at/rx_bytes") received $(cat "$at/tx_bytes")"
    done
    ;;
kill)
    kill -9 "$(pid_of "$2")"
    rm "$STATE/$2.pid"
    ;;
down)
    for h in $(hosts); do
        kill -9 "$(pid_of "$h")" 2>/dev/null || true
        rm -f "$STATE/$h.pid"
    done
    for link in $(ls /sys/class/net | grep -E '^vh[0-9]+$'); do ip link del "$link" 2>/dev/null || true; done
    ip link del $IF 2>/dev/null || true
    ;;
*)
    sed -n '2,/^set/{/^set/d;p}' "$HERE/$(basename "$0")"
    exit 2
    ;;
esac
