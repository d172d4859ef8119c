#!/usr/bin/env bash
# Bits a coordinate and rank of every exchange at d = 1,000,000, beside the formula for sharded.
set -euo pipefail
cd "$(dirname "$0")/.."

for n in 2 3 4 8; do
    for exchange in sharded allgather allreduce; do
        bits=$(timeout 300 .venv/bin/mpirun -n $n .venv/bin/mpisign train jobs/quadratic.toml --overwrite \
            --set problem.dimension=1000000 --set run.steps=20 --set exchange.name=$exchange \
            --set run.keep=none --set run.file=runs/bits.h5 | grep -E '^wire_bits_per_coordinate')
        echo "n: $n  exchange: $exchange  $bits  2(n-1)/n: $(python3 -c "print(2 * ($n - 1) / $n)")"
    done
done
