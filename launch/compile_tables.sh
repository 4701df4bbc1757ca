#!/usr/bin/env bash
# Compiles the full-size programs for every target, bf16 and for the H100 and the v5e also int8, and writes what
# the compilers say of them (needs the extra `aot`; half an hour on 2 cores and, for the v5e in int8, 15 minutes):
#     launch/compile_tables.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-docs}
mkdir -p "$folder/compiled"

{
  echo "# Full-size programs, as compiled for devices that were not at hand"
  echo
  echo "Made by \`launch/compile_tables.sh\`: a section is what \`latentum bench --target NAME --batch 1,16\`"
  echo "prints; beside this page, in \`compiled/\`, is the same as JSON. What the columns say is in"
  echo "\`latentum_jax/eval/aot.py\`; kernels of names that begin with \`__\` are of the compiler's making, but"
  echo "for \`__gpu\$xla.gpu.triton\`, ours."
  for run in h100 "h100 --weights int8" v5e "v5e --weights int8" v5p v6e; do
    name=${run// --weights /-}
    echo
    echo "## ${name}"
    echo
    # shellcheck disable=SC2086
    latentum bench --target $run --batch 1,16 --json "$folder/compiled/$name.json"
  done
} >"$folder/compiled.md"
