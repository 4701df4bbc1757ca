"""Makes latentum_jax/checkpoints/frozenlake-tiny of a finished run of configs/frozenlake_tiny.py.

    python launch/bundle_frozenlake_tiny.py RUN

Writes the model in bf16, log.jsonl (every tenth step of each stage) and
metrics.json (the evaluations in RUN/eval, where they have been made).
"""

import json
import sys
from pathlib import Path

from latentum_jax.files import write_json, write_jsonl
from latentum_jax.pretrained import LatentUM
from latentum_jax.train.recipe import load_config

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "latentum_jax" / "checkpoints" / "frozenlake-tiny"
EVERY = 10


def main(run: Path) -> None:
    """Bundles a run."""
    stages = load_config("frozenlake_tiny", {}).chain
    model = LatentUM.from_pretrained(run / stages[-1])
    recipe = BUNDLE / "README.md"
    text = recipe.read_text() if recipe.is_file() else ""  # the folder is written anew
    model.save_pretrained(BUNDLE, dtype="bfloat16")
    if text:
        recipe.write_text(text)
    write_jsonl(BUNDLE / "log.jsonl", [line for stage in stages for line in log_of(run, stage)])
    found = {}
    for results in sorted((run / "eval").glob("*/results.json")):
        values = json.loads(results.read_text())
        values.pop("checkpoint", None)
        found[results.parent.name] = values
    write_json(BUNDLE / "metrics.json", found)


def log_of(run: Path, stage: str) -> list[dict]:
    """Every tenth step of a stage."""
    lines = map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())
    return [{"stage": stage, **line} for line in lines if line["step"] % EVERY == 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
