#!/usr/bin/env bash
# Signum with a majority vote, Distributed Lion and Adam on characters of Shakespeare: table and picture; FILE is the text
# (mpisign data fetch shakespeare). An hour on one core, half on two.
#   analysis/shakespeare.sh FILE
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/mpisign simulate jobs/shakespeare_methods.toml --jobs 2 --set problem.path="$1"
best=$(.venv/bin/python analysis/compare.py runs/shakespeare_methods/*.h5 --metric test_loss --files)
.venv/bin/python analysis/seeds.py $best --table >analysis/shakespeare.md
.venv/bin/python analysis/seeds.py $best --axes step bytes --output analysis/shakespeare.png
