#!/usr/bin/env bash
# MBAQ's objective against mean squared error and cosine distance (appendix A.1): each trained for
# the same steps on the VLM of a run of configs/frozenlake_tiny.py, at three learning rates (none
# suits all of them), with as many codes as the bundled model has and with few; then asked the same
# questions:
#     launch/compare_quantizers.sh RUN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/compare_quantizers.sh RUN}

for codes in 64 8; do
  made=()
  for objective in kl mse cosine; do
    for rate in 1e-2 5e-3 2e-3; do
      made+=("$run/quantizers-$codes/$objective-$rate")
      latentum train --config frozenlake_mbaq --workdir "${made[-1]}" \
        --config.init_from="$run/vlm/model" --config.objective="$objective" \
        --config.model.quantizer.codebook_size="$codes" \
        --config.optimizer.learning_rate="$rate" --config.ema=0.0
    done
  done
  latentum eval quantizers "${made[@]}" --num 1000 --seed 1 --out "$run/eval/quantizers-$codes"
done
