#!/usr/bin/env bash
# The published counterexamples and identities of jobs/figures against their bands; with DIR, the folder of MNIST's
# IDX files, also C12 and its picture.
#   analysis/bands.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."

for name in c1 c2 c3 c5 c6 c7 c8 c13; do
    .venv/bin/mpisign simulate jobs/figures/$name.toml --jobs 2
    .venv/bin/python analysis/bands.py jobs/figures/$name.toml
done
.venv/bin/python analysis/span.py runs/c13/*.h5 --output analysis/c13.png
if [ -n "${1:-}" ]; then
    .venv/bin/mpisign simulate jobs/figures/c12.toml --jobs 2 --set problem.path="$1"
    .venv/bin/python analysis/curves.py runs/c12/*.h5 --output analysis/c12.png
    .venv/bin/python analysis/bands.py jobs/figures/c12.toml --set problem.path="$1"
fi
