#!/usr/bin/env bash
# MBAQ's objective against mean squared error and cosine distance (appendix A.1) on the VLM of a run
# of configs/frozenlake_tiny.py, each trained for the same steps and asked the same questions: as the
# recipe has it, squared error also at lower rates; and with four times as many codes for 1000 steps
# with three seeds, for 400 steps at three learning rates, for none suits all of them, and for 1000
# steps at the best of these:
#     launch/compare_quantizers.sh RUN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/compare_quantizers.sh RUN}

compare() { # CODES STEPS FOLDER OBJECTIVE_RATE_SEED...
  local codes=$1 steps=$2 table=$3 folder="$run/$3" made=()
  shift 3
  for name in "$@"; do
    local objective rate seed
    IFS=_ read -r objective rate seed <<<"$name"
    made+=("$folder/$name")
    latentum train --config frozenlake_mbaq --workdir "$folder/$name" --config.steps="$steps" \
      --config.init_from="$run/vlm/model" --config.objective="$objective" \
      --config.optimizer.learning_rate="$rate" --config.ema=0.0 --config.seed="$seed" \
      --config.model.quantizer.codebook_size="$codes"
  done
  latentum eval quantizers "${made[@]}" --num 1000 --seed 1 --out "$run/eval/$table"
}

compare 16 900 quantizers {kl,mse,cosine}_1e-2_0 mse_{5e-3,2e-3}_0
compare 64 1000 quantizers-64 {kl,mse,cosine}_1e-2_{0,1,2}
compare 64 400 quantizers-64-400 {kl,mse,cosine}_{1e-2,5e-3,2e-3}_0
compare 64 1000 quantizers-64-best kl_1e-2_0 mse_5e-3_0 cosine_2e-3_0
