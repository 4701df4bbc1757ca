#!/usr/bin/env bash
# MBAQ's objective against mean squared error and cosine distance (appendix A.1), trained for the
# same steps on the VLM of a run of configs/frozenlake_tiny.py, compared on the same questions:
#     launch/compare_quantizers.sh RUN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/compare_quantizers.sh RUN}

for objective in kl mse cosine; do
  latentum train --config frozenlake_mbaq --workdir "$run/quantizers/$objective" \
    --config.init_from="$run/vlm/model" --config.objective="$objective"
done
latentum eval quantizers "$run"/quantizers/{kl,mse,cosine} --num 200 --seed 1 \
  --out "$run/quantizers/compared"
