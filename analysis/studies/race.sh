#!/usr/bin/env bash
# Time to 97% on MNIST behind links of 50, 200 and 1000 Mbit/s, n = 4, votes and codes against torch DDP: rates are
# tuned where nothing is slow, the best replayed on simulated hosts with three seeds. Needs root; two hours on 2 cores.
#   analysis/studies/race.sh DIR [tune|replay...]      DIR holds the IDX files of MNIST
#   SEEDS="1 2" LINKS="50mbit 200mbit" METHODS="signum-mv qsgd ddp-fp16-sgd" analysis/studies/race.sh DIR replay
# Both parts skip runs that are there. Where nothing was tuned, replay takes the rates of race_best.txt beside it.
set -euo pipefail
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
data=$(readlink -f "${1:?folder of the IDX files of MNIST}")
shift
cd "$ROOT"
BIN=$ROOT/.venv/bin JOB=jobs/studies/race.toml TARGET=0.97
export OMP_NUM_THREADS=1
ddp() { echo "analysis/studies/ddp.py $JOB --until $TARGET --set problem.path=$data"; }

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
    local best=analysis/studies/race_best.txt
    if [ -d runs/race ] && [ -d runs/race_ddp ]; then
        best=runs/race_best.txt
        $BIN/python analysis/studies/race.py runs/race runs/race_ddp --target $TARGET --best >$best
    fi
    for seed in ${SEEDS:-1 2 3}; do
        for rate in ${LINKS:-50mbit 200mbit 1gbit}; do
            mkdir -p runs/race_links/$rate
            while read -r method lr _ steps; do
                [[ " ${METHODS:-$method} " == *" $method "* ]] || continue
                [ "$method" != sgd ] || continue # DDP's float32 SGD is the same trajectory
                one "$method" "$lr" "$steps" </dev/null >>runs/race_links/log 2>&1
            done <$best
        done
    done
}

one() { # METHOD LR STEPS: a run behind links of $rate with $seed, longer than seed 1 took; named once it is whole
    local file=runs/race_links/$rate/$1-seed$seed.h5 whole=runs/race_running.h5 hook=${1#ddp-}
    local how=(--set problem.path="$data" --set run.seed="$seed" --set run.eval_every=50 --set run.check_every=50)
    [ ! -e "$file" ] || return 0
    case $1 in
    ddp-*) MPISIGN=$BIN/python timeout 600 analysis/links.sh 4 $rate $(ddp) --hook "${hook%-*}" \
        --optimizer "${hook##*-}" --lr "$2" "${how[@]}" --file $whole ;;
    *) timeout 600 analysis/links.sh 4 $rate train runs/race_job.toml --overwrite "${how[@]}" \
        --set algorithm.name="$1" --set schedule.lr="$2" --set run.steps=$(($3 * 5 / 4 + 50)) --set run.file=$whole ;;
    esac && mv $whole "$file" || echo "$file: failed with exit code $?; the same command tries again"
}

mkdir -p runs
sed '/^\[sweep\]/,$d' $JOB >runs/race_job.toml # the job without its sweep
[ $# -gt 0 ] || set -- tune replay
for part in "$@"; do "$part"; done
$BIN/python analysis/studies/race.py runs/race_links --target $TARGET --output analysis/studies/race.png
