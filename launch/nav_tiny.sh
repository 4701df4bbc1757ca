#!/usr/bin/env bash
# Trains the bundled world model and its pixel decoder from nothing, puts them into the package in
# bf16, and measures what is there on held-out walks; on a GPU, --config.data.workers=12 or so keeps
# it busy:
#     launch/nav_tiny.sh RUN [--config.KEY=VALUE ...]
# Interrupted and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/nav_tiny.sh RUN}
shift

latentum train --config nav_tiny --workdir "$run" "$@"
latentum train --config nav_tiny_decoder --workdir "$run/decoder" --config.latentum="$run/mbaq/model" "$@"
python launch/bundle.py nav-tiny "$run"
latentum eval recon --checkpoint nav-tiny --num 100 --temperature 0 --out "$run/eval/recon"
python launch/bundle.py nav-tiny "$run" # once more, for the figures
