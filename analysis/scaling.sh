#!/usr/bin/env bash
# Strong and weak scaling on 1, 2, 4 and 8 simulated hosts behind links of one rate, votes and float32 gradients. Needs
# root; about 8 minutes on 2 cores, which 4 and 8 hosts have to share.
#   analysis/scaling.sh DIR [RATE]      DIR holds the IDX files of MNIST; RATE as tc says it, 1gbit by default
set -euo pipefail
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
data=$(readlink -f "${1:?folder of the IDX files of MNIST}")
rate=${2:-1gbit}
cd "$ROOT"
export OMP_NUM_THREADS=1

for kind in strong weak; do
    for how in "signum-mv 0.001" "sgd 0.1"; do
        read -r method lr <<<"$how"
        for n in 1 2 4 8; do
            timeout 600 analysis/links.sh $n "$rate" train jobs/${kind}_scaling.toml --overwrite \
                --set problem.path="$data" --set algorithm.name=$method --set schedule.lr=$lr \
                --set run.steps=100 --set run.threads=1 >/dev/null
        done
    done
    .venv/bin/python analysis/scaling.py runs/${kind}_scaling --output analysis/studies/${kind}_scaling.png
done
