#!/usr/bin/env bash
# What a GPU reaches, on a machine that has one: its tests, every kernel beside the device's bandwidth, and the split of a
# step of ResNet-18 on images of noise by one rank and by four that share the GPU. Tables go to analysis/gpu.
#   analysis/studies/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=.venv/bin
$BIN/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    { echo "gpu.sh: torch sees no GPU here; tests/gpu would be skipped, and there is nothing to measure" >&2; exit 2; }
mkdir -p analysis/gpu runs/gpu
$BIN/python -m pytest tests/gpu -rs
$BIN/mpisign bench kernels --device cuda --repeats 9 --output runs/gpu/kernels.h5 >analysis/gpu/kernels.md
$BIN/python - <<'PY'
import numpy as np
for k in range(1, 6):
    rng = np.random.default_rng(k)
    records = np.hstack([rng.integers(10, size=(2000, 1)), rng.integers(256, size=(2000, 3072))])
    records.astype(np.uint8).tofile(f"runs/gpu/data_batch_{k}.bin")
PY
for n in 1 4; do
    for precision in float32 bf16; do
        name=resnet18-n$n-$precision
        timeout 600 $BIN/mpirun -n $n $BIN/mpisign train --overwrite --set run.file=runs/gpu/$name.h5 \
            --set run.steps=200 --set run.device=cuda --set run.precision=$precision --set run.eval_every=200 \
            --set problem.name=cifar10 --set problem.path=runs/gpu --set 'problem.test=["data_batch_5"]' \
            --set problem.batch_size=128 --set algorithm.name=signum-mv --set schedule.lr=1e-4 >/dev/null
        $BIN/mpisign show runs/gpu/$name.h5 >analysis/gpu/$name.txt
    done
done
