"""MBAQ against mean squared error and cosine distance (appendix A.1), from one trained VLM."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from latentum_jax.convert.published import open_model
from latentum_jax.eval import quantizers
from latentum_jax.eval.chart import bar_chart
from latentum_jax.eval.runs import markdown
from latentum_jax.miniature.part import Given, Part, Section
from latentum_jax.miniature.spread import Values, cell, verdict
from latentum_jax.models.folder import write_folder
from latentum_jax.models.latentum import init_params
from latentum_jax.pretrained import find_model
from latentum_jax.train.loop import train
from latentum_jax.train.recipe import load_config

RECIPE = "frozenlake_mbaq"
# Objectives and learning rates: all at the recipe's, and squared error at one that suits it better.
ARMS = {
    "MBAQ": ("kl", 1e-2),
    "mse": ("mse", 1e-2),
    "mse, rate 2e-3": ("mse", 2e-3),
    "cosine": ("cosine", 1e-2),
}


def trained_and_asked(given: Given, seed: int) -> Values:
    """Points that answers lose by quantization, and their divergence, for each of `ARMS`."""
    folder = given.folder / str(seed)
    start = start_anew(given.checkpoint, folder / "start", seed)
    made = {name: str(train_arm(*arm, start, given, seed)) for name, arm in ARMS.items()}
    sizes = given.sizes
    asked = (sizes.levels, sizes.states, seed, folder / "asked")
    found = quantizers.compare(list(made.values()), *asked)["checkpoints"]
    return {
        name: {"lost": 100 * found[path]["lost"]["mean"], "kl": found[path]["kl"]}
        for name, path in made.items()
    }


def start_anew(checkpoint: str, path: Path, seed: int) -> Path:
    """The checkpoint with a quantizer that has learnt nothing."""
    folder = open_model(find_model(checkpoint))
    fresh = init_params(folder.config, jax.random.key(seed))["quantizer"]
    params = {**folder.params, "quantizer": fresh}
    write_folder(path, dataclasses.replace(folder, params=params, usage=None))
    return path


def train_arm(objective: str, rate: float, start: Path, given: Given, seed: int) -> Path:
    """The folder of the model whose quantizer learnt so; goes on where it stopped."""
    settings = {
        "init_from": str(start),
        "objective": objective,
        "optimizer.learning_rate": repr(rate),
        "steps": str(given.sizes.steps),
        "seed": str(seed),
    }
    config = load_config(RECIPE, settings)
    config.model.update(open_model(start).config.to_dict())
    return train(config, start.parent / f"{objective}_{rate:g}")


def tell(seeds: Sequence[Values], spread: Mapping[str, Any]) -> Section:
    """Whether MBAQ loses least, at one rate and against the best of the others."""
    others = [name for name in seeds[0] if name != "MBAQ"]
    less = {
        name: [values[name]["lost"] - values["MBAQ"]["lost"] for values in seeds] for name in others
    }
    rows = [(name, cell(found["lost"], 2), cell(found["kl"], 4)) for name, found in spread.items()]
    bars = {name: [(found["lost"]["mean"], found["lost"]["sd"])] for name, found in spread.items()}
    text = [
        "The quantizer starts anew on the frozen model and learns by the divergence of answers",
        "(MBAQ, section 3.1.1), or by squared error or cosine distance of features (appendix A.1),",
        "for the same steps at the recipe's rate, 1e-2. Lost are points of right answers from",
        "quantized features against continuous ones; KL is in nats a token.",
        "",
        *(verdict(f"MBAQ loses less than {name}", gains, "points") for name, gains in less.items()),
        "",
        markdown(("objective", "points lost", "KL"), rows),
    ]
    chart = bar_chart("Points lost by quantization", ["points"], bars, x_label="")
    return Section("\n".join(text), {"": chart})


QUANTIZERS = Part(
    "quantizers",
    "MBAQ and other quantizers",
    False,
    ("levels", "steps", "states"),
    trained_and_asked,
    tell,
)
