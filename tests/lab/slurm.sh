#!/bin/bash
# A real Slurm over the simulated hosts of hosts.sh, up in a second. Needs root and Debian's packages
# slurmctld slurmd slurm-client munge iproute2.
#
#   slurm.sh up N [RATE]   starts hosts and Slurm; prints the export line that points srun and sbatch to it
#   slurm.sh kill hK       powers a host off     slurm.sh start hK   brings it back
#   slurm.sh down
set -euo pipefail
HERE=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
export LAB_STATE=${LAB_STATE:-${TMPDIR:-/tmp}/mpisign-lab}
STATE=$LAB_STATE/slurm
HOSTS=$HERE/hosts.sh
CPUS=${CPUS:-8} # that each host claims to have
export SLURM_CONF=$STATE/slurm.conf

start_munge() {
    install -d -o munge -g munge -m 0755 "$STATE/munge"
    [ -f "$STATE/munge/munge.key" ] || head -c 128 /dev/urandom >"$STATE/munge/munge.key"
    chown munge:munge "$STATE/munge/munge.key"
    chmod 400 "$STATE/munge/munge.key"
    runuser -u munge -- munged --force --key-file="$STATE/munge/munge.key" --socket="$STATE/munge/munge.socket" \
        --pid-file="$STATE/munge/munged.pid" --log-file="$STATE/munge/munged.log" \
        --seed-file="$STATE/munge/munge.seed"
}

# Requeued jobs wait for credentials to expire; a busy machine takes more than the least, 5 s, to launch a step. Hosts are
# missed after 5 s.
write_conf() { # N
    cat >"$STATE/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$(hostname -s)(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$STATE/ctld
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdPidFile=$STATE/run/slurmd.%n.pid
SlurmdSpoolDir=$STATE/spool.%n
SlurmdLogFile=$STATE/log/slurmd.%n.log
TmpFS=/run/node
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout=5
SlurmctldTimeout=30
KillWait=3
MessageTimeout=10
PropagateResourceLimits=NONE
JobRequeue=1
NodeName=h[1-$1] NodeAddr=10.77.0.[1-$1] CPUs=$CPUS RealMemory=4000 State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

case ${1:-} in
up)
    mkdir -p "$STATE"/{ctld,log,run} /run/node
    for k in $(seq "$2"); do mkdir -p "$STATE/spool.h$k"; done
    start_munge
    "$HOSTS" up "$2" "${3:-none}"
    write_conf "$2"
    slurmctld
    for k in $(seq "$2"); do "$HOSTS" exec "h$k" slurmd -N "h$k"; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -t idle -o %D 2>/dev/null | head -1)" = "$2" ] && break
        sleep 0.1
    done
    echo "export SLURM_CONF=$STATE/slurm.conf"
    ;;
kill) "$HOSTS" kill "$2" ;;
start)
    "$HOSTS" start "$2"
    "$HOSTS" exec "$2" slurmd -N "$2"
    ;;
down)
    scancel -Q -u root 2>/dev/null || true
    sleep 0.5
    "$HOSTS" down
    for file in "$STATE/run/slurmctld.pid" "$STATE/munge/munged.pid"; do
        [ -f "$file" ] && kill "$(cat "$file")" || true
    done
    for _ in $(seq 50); do
        kill -0 "$(cat "$STATE/run/slurmctld.pid" 2>/dev/null)" 2>/dev/null || break
        sleep 0.1
    done
    ;;
*)
    sed -n '2,/^set/{/^set/d;p}' "$HERE/slurm.sh"
    exit 2
    ;;
esac
