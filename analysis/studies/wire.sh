#!/bin/bash
# The wire, measured: kernels, loopback by shared memory and by TCP, links of 200 Mbit/s and 1 Gbit/s on simulated hosts.
# Tables go to analysis/wire/*.md, the same as HDF5 to runs/wire; about 15 minutes. Links need root; see links.sh.
#
#   analysis/studies/wire.sh [PART...]       parts: kernels step loopback tcp profile links nodes voters library (all by default)
#                                            projected: what mpisign project foretells of links; needs SimGrid's smpirun
set -euo pipefail
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
cd "$ROOT"
BIN=.venv/bin
[ -x $BIN/mpisign ] || BIN=$(dirname "$(command -v mpisign)")
export OMP_NUM_THREADS=1
mkdir -p runs/wire analysis/wire

measure() { # NAME COMMAND...: the command's table under that name
    local name=$1
    shift
    echo "== $name" >&2
    timeout 600 "$@" --output "runs/wire/$name.h5" 2>runs/wire/errors | grep -v '^written' >"runs/wire/$name.md" ||
        { cat runs/wire/errors >&2; echo "$name failed" >&2; return 1; }
    mv "runs/wire/$name.md" "analysis/wire/$name.md"
}
ranks() { echo "$BIN/mpirun -n $1 $BIN/mpisign bench"; }

kernels() { measure kernels $BIN/mpisign bench kernels --repeats 9; }
step() {
    measure step $BIN/mpisign bench step
    measure step-large $BIN/mpisign bench step --hidden 1024 --hidden 4096 --batch 512
}
loopback() {
    for n in 2 4; do
        measure "peers-shm-n$n" $(ranks $n) peers --no-ddp
        measure "exchange-shm-n$n" $(ranks $n) exchange
    done
    measure exchange-shm-n8 $(ranks 8) exchange
}
tcp() {
    export MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp MPIR_CVAR_NOLOCAL=1 FI_TCP_IFACE=lo
    for n in 2 4; do measure "peers-tcp-n$n" $(ranks $n) peers --no-ddp; done
    for n in 2 3 4 8; do measure "exchange-tcp-n$n" $(ranks $n) exchange -d 8.4e6; done
    unset MPIR_CVAR_CH4_NETMOD FI_PROVIDER MPIR_CVAR_NOLOCAL FI_TCP_IFACE
}
library() {
    measure optimizer $BIN/mpisign bench optimizer
    for rate in 200mbit 1gbit; do
        measure "overlap-$rate-n4" analysis/links.sh 4 $rate bench overlap
        measure "overlap-compiled-$rate-n4" analysis/links.sh 4 $rate bench overlap --compiled --batch 128
    done
}
profile() { measure profile-n4 $(ranks 4) profile -d 1.6e7; }
links() {
    for rate in 200mbit 1gbit; do
        for n in 2 4 8; do
            measure "peers-$rate-n$n" analysis/links.sh $n $rate bench peers --no-ddp --repeats 5
            measure "exchange-$rate-n$n" analysis/links.sh $n $rate bench exchange --repeats 5
        done
        measure "ddp-$rate-n4" analysis/links.sh 4 $rate bench peers -d 8.4e6 --repeats 5
    done
}

nodes() { # several ranks a host: what leaves a host, and the time
    for rate in 200mbit 1gbit; do
        for hosts in 2x2 4x2; do
            measure "nodes-$rate-$hosts" analysis/links.sh $hosts $rate bench exchange \
                --exchange sharded --exchange hierarchical -d 1e6 -d 8.4e6
        done
    done
}

voters() { # two hosts of two ranks, which FSDP makes one voter
    for rate in 200mbit 1gbit; do
        measure "voters-$rate-2x2" analysis/links.sh 2x2 $rate bench voters -d 8.4e6
    done
}

projected() { # the cores' part is the same step by TCP over loopback: hosts share the cores here
    for rate in 200mbit 1gbit; do
        local files=()
        for n in 2 4 8; do
            files+=(--check "runs/wire/exchange-$rate-n$n.h5" --check-free "runs/wire/exchange-tcp-n$n.h5")
        done
        measure "projected-$rate" $BIN/mpisign project "${files[@]}" --check-link $rate --check-latency 25us \
            --check-size 8.4e6 --exchange sharded --exchange allgather
    done
}

[ $# -gt 0 ] || set -- kernels step loopback tcp profile links nodes voters library
for part in "$@"; do "$part"; done
if measured=$(ls runs/wire/exchange-*.h5 2>/dev/null); then
    $BIN/python analysis/studies/predictions.py $measured | tee analysis/wire/predictions.md
fi
