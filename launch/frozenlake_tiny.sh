#!/usr/bin/env bash
# Trains the bundled model from nothing, puts it into the package in bf16, and measures what is there
# on held-out mazes:
#     launch/frozenlake_tiny.sh RUN
# Interrupted and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/frozenlake_tiny.sh RUN}
name=frozenlake-tiny

latentum train --config frozenlake_tiny --workdir "$run"
python launch/bundle.py frozenlake-tiny "$run"
latentum eval vsp --checkpoint "$name" --mode fine --num 100 --seed 1 --out "$run/eval/vsp-fine"
latentum eval vsp --checkpoint "$name" --mode coarse --num 100 --seed 1 --out "$run/eval/vsp-coarse"
latentum eval questions --checkpoint "$name" --num 40 --seed 1 --out "$run/eval/questions"
python launch/bundle.py frozenlake-tiny "$run" # once more, for the figures
