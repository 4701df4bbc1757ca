#!/usr/bin/env bash
# MBAQ's objective against mean squared error and cosine distance (appendix A.1) on the VLM of a run
# of configs/frozenlake_tiny.py: each trained for 400 steps at three learning rates, for none suits
# all of them, and for 1000 steps at its best one; then asked the same questions:
#     launch/compare_quantizers.sh RUN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/compare_quantizers.sh RUN}

compare() { # STEPS OBJECTIVE-RATE...
  local steps=$1 folder="$run/quantizers-$1" made=()
  shift
  for name in "$@"; do
    made+=("$folder/$name")
    latentum train --config frozenlake_mbaq --workdir "$folder/$name" --config.steps="$steps" \
      --config.init_from="$run/vlm/model" --config.objective="${name%%-*}" \
      --config.optimizer.learning_rate="${name#*-}" --config.ema=0.0
  done
  latentum eval quantizers "${made[@]}" --num 1000 --seed 1 --out "$run/eval/quantizers-$steps"
}

compare 1000 kl-1e-2 mse-5e-3 cosine-2e-3
compare 400 {kl,mse,cosine}-{1e-2,5e-3,2e-3}
