"""Makes a bundled model, latentum_jax/checkpoints/NAME, of a finished run of its recipe.

    python launch/bundle.py frozenlake-tiny RUN
    python launch/bundle.py nav-tiny RUN

Writes the model in bf16, log.jsonl (every tenth step of each stage, fewer of a stage longer than
1000) and metrics.json (the evaluations in RUN/eval, where they have been made); with a run of the
decoder's recipe in RUN/decoder, the same of the pixel decoder in decoder/.
"""

import json
import math
import sys
from pathlib import Path

from latentum_jax.eval.runs import settings_of
from latentum_jax.files import BUNDLED, write_json, write_jsonl
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.train.recipe import load_config

RECIPES = {  # of the model and of its decoder
    "frozenlake-tiny": ("frozenlake_tiny", "frozenlake_decoder"),
    "nav-tiny": ("nav_tiny", "nav_tiny_decoder"),
}
EVERY, LINES = 10, 100  # steps from one line of a log to the next at least, lines a stage at most


def main(name: str, run: Path) -> None:
    """Bundles a run."""
    if name not in RECIPES:
        raise SystemExit(f"{name!r} is no bundled model, expected one of {sorted(RECIPES)}")
    folder, (recipe, of_decoder) = BUNDLED / name, RECIPES[name]
    told = {path: path.read_text() for path in folder.rglob("README.md")}  # folders are made anew
    bundle(LatentUM, recipe, run, folder)
    if (run / "decoder").is_dir():
        bundle(PixelDecoder, of_decoder, run / "decoder", folder / "decoder")
    for path, text in told.items():
        if path.parent.is_dir():
            path.write_text(text)
    found = {}
    for results in sorted((run / "eval").glob("*/results.json")):
        values = json.loads(results.read_text())
        stated = {"checkpoint", *settings_of(results.parent)}  # what was run is no figure
        found[results.parent.name] = {k: v for k, v in values.items() if k not in stated}
    write_json(folder / "metrics.json", found)


def bundle(kind: type[LatentUM] | type[PixelDecoder], recipe: str, run: Path, to: Path) -> None:
    """The model at the end of a chain, and the log of all its stages."""
    stages = load_config(recipe, {}).chain
    kind.from_pretrained(run / stages[-1]).save_pretrained(to, dtype="bfloat16")
    write_jsonl(to / "log.jsonl", [line for stage in stages for line in log_of(run, stage)])


def log_of(run: Path, stage: str) -> list[dict]:
    """What a stage said of at most `LINES` of its steps."""
    lines = [*map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines())]
    every = EVERY * math.ceil(lines[-1]["step"] / (EVERY * LINES))
    return [{"stage": stage, **line} for line in lines if line["step"] % every == 0]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
