#!/bin/bash
# Runs any mpisign command with each rank, or several, on a simulated host of its own, behind a link of a set rate; the
# bytes that each host's interface sent and received are told at the end. Needs root, iproute2 and network namespaces.
#
#   analysis/links.sh HOSTS[xRANKS] RATE COMMAND...   RATE as tc says it: 200mbit, 1gbit; none: as fast as it goes
#   analysis/links.sh 4 200mbit bench peers -d 8.4e6
#   analysis/links.sh 8 1gbit train jobs/digits.toml
#   analysis/links.sh 4x2 1gbit bench exchange       two ranks a host, which share its memory
#
# MPISIGN names the program (mpisign beside this python by default), MPIRUN the launcher. The hosts share this
# machine's cores: time beyond them says little, bytes and time on slow links do.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;p}' "$0"; exit 2; }
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
LAB=$ROOT/tests/lab
HOSTS=${1%x*} EACH=1 RATE=$2
[ "$HOSTS" = "$1" ] || EACH=${1#*x}
shift 2
refuse() { echo "links.sh: $1" >&2; exit 2; }

BIN=$ROOT/.venv/bin
[ -x "$BIN/mpisign" ] || BIN=$(dirname "$(command -v mpisign || echo ./none)")
MPISIGN=${MPISIGN:-$BIN/mpisign} MPIRUN=${MPIRUN:-$BIN/mpirun}
{ [ "$HOSTS" -ge 1 ] && [ "$EACH" -ge 1 ]; } 2>/dev/null ||
    refuse "first say how many hosts, as in: links.sh 4 200mbit bench peers; or hosts and ranks on each: 4x2"
RANKS=$((HOSTS * EACH))
[ -x "$MPISIGN" ] && [ -x "$MPIRUN" ] || refuse "no mpisign and mpirun in $BIN; make setup, or set MPISIGN and MPIRUN"
[ "$(id -u)" = 0 ] || refuse "simulated hosts need root; run it as root, or run $* on real hosts"
for name in ip tc nsenter unshare; do command -v "$name" >/dev/null && continue
    refuse "$name is missing; install iproute2 and util-linux"
done
unshare -n true 2>/dev/null || refuse "this machine gives no right to make network namespaces"
[ ! -e /sys/class/net/lab0 ] || refuse "simulated hosts are up already (interface lab0); wait, or: tests/lab/hosts.sh down"

LAB_STATE=$(mktemp -d)
export LAB_STATE
clean() { "$LAB/hosts.sh" down >/dev/null 2>&1 || true; rm -rf "$LAB_STATE"; }
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$LAB/hosts.sh" up "$HOSTS" "$RATE" || refuse "the simulated hosts could not be set up at rate $RATE"

# TCP by libfabric keeps closest to the link's rate; hosts that share cores must not spin
export MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp MPIR_CVAR_POLLS_BEFORE_YIELD=1 GLOO_SOCKET_IFNAME=lab0
NAMES=$(seq -s, -f h%g "$HOSTS")
if "$MPIRUN" --version 2>&1 | grep -q "Open MPI\|Open RTE\|PRRTE"; then
    HOW=(--allow-run-as-root --prtemca plm_ssh_agent "$LAB/rsh.sh" --prtemca prte_if_include lab0 --mca pml ob1
        --mca btl tcp,self --mca btl_tcp_if_include lab0 --mca mpi_yield_when_idle 1 --bind-to none --host "$(seq -s, -f "h%g:$EACH" "$HOSTS")")
else
    HOW=(-launcher ssh -launcher-exec "$LAB/rsh.sh" -hosts "$NAMES" -ppn "$EACH" -iface lab0)
fi
before=$("$LAB/hosts.sh" count)
status=0
setsid --wait "$MPIRUN" "${HOW[@]}" -n "$RANKS" "$MPISIGN" "$@" </dev/null || status=$?
after=$("$LAB/hosts.sh" count)
paste <(echo "$before") <(echo "$after") |
    awk '{printf "%s sent %.3f MB, received %.3f MB, start-up included\n", $1, ($8 - $3) / 1e6, ($10 - $5) / 1e6}' >&2
exit $status
