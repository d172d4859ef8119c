#!/usr/bin/env bash
# Test accuracies of the built-in job for seeds 1 to 5, n = 8, and their median.
set -euo pipefail
cd "$(dirname "$0")/.."

for seed in 1 2 3 4 5; do
    timeout 300 .venv/bin/mpirun -n 8 .venv/bin/mpisign train --overwrite \
        --set run.seed=$seed --set run.file=runs/seed$seed.h5 | grep -E '^(test_accuracy|seconds)' | tr '\n' ' '
    echo "seed: $seed"
done | tee runs/seeds.txt
echo "median: $(cut -d' ' -f2 runs/seeds.txt | sort | sed -n 3p)"
