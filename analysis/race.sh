#!/usr/bin/env bash
# Time to 97% on MNIST behind links of 50, 200 and 1000 Mbit/s, n = 4, votes against torch DDP: rates are tuned where
# nothing is slow, the best are replayed on simulated hosts with three seeds. Needs root; about an hour on 2 cores.
#   analysis/race.sh DIR [tune|replay...]      DIR holds the IDX files of MNIST
set -euo pipefail
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
data=$(readlink -f "${1:?folder of the IDX files of MNIST}")
shift
cd "$ROOT"
BIN=$ROOT/.venv/bin JOB=jobs/studies/race.toml TARGET=0.97
export OMP_NUM_THREADS=1
ddp() { echo "analysis/ddp.py $JOB --until $TARGET --set problem.path=$data"; }

tune() {
    $BIN/mpisign simulate $JOB --jobs 2 --set problem.path="$data"
    for how in "float32 sgd" "float32 adam" "fp16 sgd" "powersgd-1 sgd" "powersgd-2 sgd"; do
        read -r hook optimizer <<<"$how"
        rates="0.03 0.1 0.3 1.0"
        [ "$optimizer" = sgd ] || rates="0.0003 0.001 0.003 0.01"
        for lr in $rates; do
            file=runs/race_ddp/$hook-$optimizer-lr$lr-seed1.h5
            [ -e "$file" ] || timeout 300 $BIN/mpirun -n 4 $BIN/python $(ddp) --hook "$hook" --optimizer "$optimizer" \
                --lr "$lr" --set run.seed=1 --file "$file"
        done
    done
}

replay() {
    $BIN/python analysis/race.py runs/race runs/race_ddp --target $TARGET --best >runs/race_best.txt
    for rate in 50mbit 200mbit 1gbit; do
        mkdir -p runs/race_links/$rate
        while read -r method lr _ steps; do
            case $method in
            ddp-*)
                hook=${method#ddp-} optimizer=${method##*-}
                for seed in 1 2 3; do
                    file=runs/race_links/$rate/$method-seed$seed.h5
                    [ -e "$file" ] || MPISIGN=$BIN/python timeout 600 analysis/links.sh 4 $rate $(ddp) \
                        --hook "${hook%-*}" --optimizer "$optimizer" --lr "$lr" --set run.seed="$seed" --file "$file"
                done
                ;;
            sgd) ;; # DDP's float32 SGD is the same trajectory
            *)
                for seed in 1 2 3; do # other seeds may take a few steps more
                    file=runs/race_links/$rate/$method-seed$seed.h5
                    [ -e "$file" ] || timeout 600 analysis/links.sh 4 $rate train runs/race_job.toml --overwrite \
                        --set problem.path="$data" --set algorithm.name="$method" --set schedule.lr="$lr" \
                        --set run.seed="$seed" --set run.steps=$((steps + 200)) --set run.file="$file"
                done
                ;;
            esac </dev/null 2>>runs/race_links/log
        done <runs/race_best.txt
    done
}

mkdir -p runs
sed '/^\[sweep\]/,$d' $JOB >runs/race_job.toml # the job without its sweep
[ $# -gt 0 ] || set -- tune replay
for part in "$@"; do "$part"; done
$BIN/python analysis/race.py runs/race_links --target $TARGET --output analysis/studies/race.png
