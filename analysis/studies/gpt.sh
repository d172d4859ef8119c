#!/usr/bin/env bash
# A byte-level GPT (jobs/gpt/train.py) on 2 nodes of 2 ranks: votes of ranks, votes of nodes, AdamW by an all-reduce, and
# the rows of matrices with Muon beside them. Every rate runs with seed 1, and those within 0.05 bits per byte of the
# best one with seeds 2 and 3; the best median of three is the result. 300 steps, about 90 seconds a run on 2 idle cores.
# Runs that are there stay.
#   analysis/studies/gpt.sh TEXT [WAY...]     ways: rank node adamw muon signmuon muonusign ef21-muonusign (all by default)
#   STEPS=9 analysis/studies/gpt.sh TEXT adamw muon     9 steps of float32 sums send what 300 steps of votes do
set -euo pipefail
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
text=$(readlink -f "${1:?a file of text}")
shift
cd "$ROOT"
BIN=$ROOT/.venv/bin
export OMP_NUM_THREADS=1
STEPS=${STEPS:-300}
SIZE="--width 128 --depth 4 --window 128 --steps $STEPS --compute float32"
OF_MATRICES="0.02 0.04 0.08"
declare -A RATES=([rank]="0.00025 0.0005 0.001" [node]="0.00025 0.0005 0.001" [adamw]="0.001 0.002 0.004"
    [muon]=$OF_MATRICES [signmuon]=$OF_MATRICES [muonusign]=$OF_MATRICES [ef21-muonusign]="0.005 0.01 0.02 0.04")
folder=runs/gpt
[ "$STEPS" = 300 ] || folder=runs/gpt-$STEPS
if [ "$STEPS" -lt 300 ]; then # a short run wants longer steps
    RATES+=([adamw]="0.004 0.008 0.016" [muon]="0.08 0.16 0.32" [ef21-muonusign]="0.08 0.16 0.32")
fi
mkdir -p "$folder"

one() { # WAY LR SEED: a run, named once it is whole
    local file=$folder/$1-lr$2-seed$3.txt how="--by $1"
    case $1 in rank | node | adamw) ;; *) how="--by rank --algorithm $1" ;; esac
    [ -e "$file" ] || { timeout 3600 "$BIN/mpirun" -n 4 "$BIN/python" jobs/gpt/train.py --text "$text" $how --lr "$2" \
        --seed "$3" $SIZE >"$file.part" </dev/null && mv "$file.part" "$file"; }
}
bits() { awk '/^held out/ {print $3}' "$1"; }

near() { # WAY: its rates whose first seed is near the best one's
    for lr in ${RATES[$1]}; do echo "$(bits "$folder/$1-lr$lr-seed1.txt") $lr"; done | sort -g |
        awk 'NR == 1 {best = $1} $1 <= best + 0.05 {print $2}'
}
median() { for seed in 1 2 3; do bits "$folder/$1-lr$2-seed$seed.txt"; done | sort -g | sed -n 2p; }

[ $# -gt 0 ] || set -- rank node adamw muon signmuon muonusign ef21-muonusign
for way in "$@"; do
    for lr in ${RATES[$way]}; do one "$way" "$lr" 1; done
    for lr in $(near "$way"); do
        for seed in 2 3; do one "$way" "$lr" "$seed"; done
    done
done
{
    echo "| way | lr | held-out bits per byte, seeds 1 to 3 | median | seed 1 at all rates |"
    echo "|---|---|---|---|---|"
    for way in "$@"; do
        read -r least best < <(for lr in $(near "$way"); do echo "$(median "$way" "$lr") $lr"; done | sort -g)
        each=$(for seed in 1 2 3; do bits "$folder/$way-lr$best-seed$seed.txt"; done)
        first=$(for lr in ${RATES[$way]}; do echo "$lr: $(bits "$folder/$way-lr$lr-seed1.txt")"; done)
        echo "| $way | $best |" $each "| $least |" $(paste -sd, <<<"$first" | sed 's/,/, /g') "|"
    done
} | tee "$folder/table.md"
