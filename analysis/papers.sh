#!/usr/bin/env bash
# The papers' own comparisons in reduced form, their tables and pictures; DIR is the folder of MNIST's IDX files. About half
# an hour on 2 cores. Full-size twins are in jobs/papers too.
#   analysis/papers.sh DIR
set -euo pipefail
cd "$(dirname "$0")/.."
data="$1"
run() { .venv/bin/mpisign simulate "jobs/papers/$1.toml" --jobs 2 --set problem.path="$data"; }
best() { .venv/bin/python analysis/compare.py runs/"$1"/*.h5 --metric "$2" --files; }
seeds() { .venv/bin/python analysis/seeds.py "$@"; }

mkdir -p analysis/papers
for name in ssvr_mnist ssvr_beta ssvr_batch signsgd_mnist signsgd_mnist_450mb; do
    run $name
done
seeds $(best ssvr_mnist train_loss) --output analysis/papers/ssvr_mnist.png
seeds $(best ssvr_mnist train_loss) --table >analysis/papers/ssvr_mnist.md
for name in ssvr_beta ssvr_batch; do
    seeds runs/$name/*.h5 --output analysis/papers/$name.png
    seeds runs/$name/*.h5 --table >analysis/papers/$name.md
done
for name in signsgd_mnist signsgd_mnist_450mb; do
    # of one node nothing travels
    seeds $(best $name test_accuracy | grep -v one-node) --axes bytes gradient_evaluations \
        --output analysis/papers/$name.png
    seeds $(best $name test_accuracy) --table >analysis/papers/$name.md
done
