#!/usr/bin/env bash
# The table of f - f* in the README: a9a and mushrooms at n = 4, iid and sorted by label.
#   analysis/logistic_study.sh DIR      DIR holds a9a and mushrooms, plain, .gz or .bz2
set -euo pipefail
data=${1:?folder of the LIBSVM files a9a and mushrooms}
cd "$(dirname "$0")/.."

runs=()
for file in "$data"/a9a{,.gz,.bz2} "$data"/mushrooms{,.gz,.bz2}; do
    [ -f "$file" ] || continue
    for kind in iid sorted; do
        for method in "signum-mv 0.1 inverse-sqrt" "dist-ef-signsgd 1.0 constant" "sgd 1.0 constant"; do
            read -r name lr schedule <<< "$method"
            name_of_data=$(basename "$file")
            run=runs/logistic-${name_of_data%%.*}-$kind-$name.h5
            timeout 300 .venv/bin/mpirun -n 4 .venv/bin/mpisign train jobs/logistic.toml --overwrite \
                --set problem.path="$file" --set partition.kind="$kind" --set algorithm.name="$name" \
                --set schedule.lr="$lr" --set schedule.kind="$schedule" --set run.file="$run" > /dev/null
            runs+=("$run")
        done
    done
done
.venv/bin/python analysis/logistic_gap.py "${runs[@]}"
