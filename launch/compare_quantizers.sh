#!/usr/bin/env bash
# MBAQ's objective against mean squared error and cosine distance (appendix A.1), trained for the
# same steps on the VLM of a run of configs/frozenlake_tiny.py, compared on the same questions:
#     launch/compare_quantizers.sh RUN
# The run's own `mbaq` stage is the one trained by KL.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/compare_quantizers.sh RUN}

for objective in mse cosine; do
  latentum train --config frozenlake_mbaq --workdir "$run/$objective" \
    --config.init_from="$run/vlm/model" --config.objective="$objective"
done
latentum eval quantizers "$run"/{mbaq,mse,cosine} --num 200 --seed 1 --out "$run/eval/quantizers"
