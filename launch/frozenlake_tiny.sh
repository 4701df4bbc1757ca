#!/usr/bin/env bash
# Trains the bundled model from nothing, measures it on held-out mazes and puts it into the package:
#     launch/frozenlake_tiny.sh RUN
# Interrupted and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/frozenlake_tiny.sh RUN}

latentum train --config frozenlake_tiny --workdir "$run"
latentum eval vsp --checkpoint "$run/sft" --mode fine --num 100 --seed 1 --out "$run/eval/vsp-fine"
latentum eval vsp --checkpoint "$run/sft" --mode coarse --num 100 --seed 1 --out "$run/eval/vsp-coarse"
latentum eval questions --checkpoint "$run/sft" --num 40 --seed 1 --out "$run/eval/questions"
python launch/bundle_frozenlake_tiny.py "$run"
