#!/usr/bin/env bash
# The picture of the README: four methods on the built-in digits, n = 8.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=()
for method in signum-mv dist-ef-signsgd ssdm sgd; do
    run=runs/picture-$method.h5
    timeout 300 .venv/bin/mpirun -n 8 .venv/bin/mpisign train --overwrite \
        --set algorithm.name=$method --set run.file=$run > /dev/null
    runs+=("$run")
done
.venv/bin/python analysis/curves.py "${runs[@]}" --output analysis/digits.png
