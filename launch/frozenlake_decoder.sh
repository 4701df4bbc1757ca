#!/usr/bin/env bash
# Trains the pixel decoder of the bundled model, on what a run of launch/frozenlake_tiny.sh has made,
# puts it into the package beside the model and measures it there:
#     launch/frozenlake_decoder.sh RUN
# Interrupted and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/frozenlake_decoder.sh RUN}

latentum train --config frozenlake_decoder --workdir "$run/decoder" \
  --config.latentum="$run/mbaq/model" # sft changes nothing that makes z_q
python launch/bundle.py frozenlake-tiny "$run"
latentum eval frames --num 100 --seed 1 --out "$run/eval/frames"
python launch/bundle.py frozenlake-tiny "$run" # once more, for the figures
