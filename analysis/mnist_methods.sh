#!/usr/bin/env bash
# Nine methods on MNIST, two labels a voter, n = 5: the README's table and picture. About 16 minutes on 2 cores.
#   analysis/mnist_methods.sh DIR      DIR holds the four IDX files
set -euo pipefail
data=${1:?folder of the IDX files of MNIST}
cd "$(dirname "$0")/.."

.venv/bin/mpisign simulate jobs/mnist_methods.toml --jobs 2 --set problem.path="$data"
.venv/bin/python analysis/compare.py runs/mnist_methods/*.h5 --target 0.9 --format markdown
.venv/bin/python analysis/compare.py runs/mnist_methods/*.h5 --files |
    xargs .venv/bin/python analysis/curves.py --output analysis/mnist_methods.png
