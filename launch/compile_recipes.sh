#!/usr/bin/env bash
# Compiles the training step of every full-size recipe for the devices it is meant for, and writes what
# the compilers say of it (needs the extra `aot`; a quarter of an hour on 2 cores):
#     launch/compile_recipes.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-docs}
mkdir -p "$folder/compiled"

{
  echo "# Training steps at full size, as compiled for devices that were not at hand"
  echo
  echo "Made by \`launch/compile_recipes.sh\`: a section is what \`latentum compile --config NAME --target"
  echo "TARGET --devices N\` prints; beside this page, in \`compiled/\`, is the same as JSON. Memory, arithmetic"
  echo "(matrix products, counted in what is traced) and exchanged bytes (of results) are a device's."
  while read -r name target devices; do
    echo
    echo "## $name, $devices $target"
    echo
    latentum compile --config "$name" --target "$target" --devices "$devices" \
      --json "$folder/compiled/$name-$target-$devices.json"
  done <<<"mome_pretrain h100 64
mbaq h100 8
pixel_decoder h100 32
sft h100 8
world_model h100 8
mome_pretrain v5p 64
grpo h100 8"
} >"$folder/compiled_training.md"
