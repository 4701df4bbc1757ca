#!/usr/bin/env bash
# The paper's comparisons at tiny size, and their report into docs/; goes on where it stopped. What
# follows RUN is given to `latentum miniature`:
#     launch/miniature.sh RUN --parts fine_coarse,pixels
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:?usage: launch/miniature.sh RUN [OPTION...]}
shift
latentum miniature --out "$run" "$@"
mkdir -p docs/miniature
cp "$run/miniature.md" docs/miniature.md
cp "$run"/miniature/*.svg docs/miniature/
