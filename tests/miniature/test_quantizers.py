"""The part that trains quantizers: where it starts, what is told, and the whole, slowly."""

import json

import jax
import numpy as np
import pytest

from latentum_jax.cli import main
from latentum_jax.eval import quantizers as asking
from latentum_jax.miniature import quantizers
from latentum_jax.miniature.spread import spread
from latentum_jax.models.folder import read_folder
from latentum_jax.train.recipe import load_config
from tests.models_on_disk import write_random_model
from tests.train.small_recipes import BUCKETS


def test_the_quantizer_starts_anew(tmp_path):
    """Breaks if an objective starts from what MBAQ has learnt, seeds start alike, or more than the
    quantizer is another."""
    before = read_folder(write_random_model(tmp_path / "model")).params
    first, other = (
        read_folder(quantizers.start_anew(str(tmp_path / "model"), tmp_path / name, seed)).params
        for name, seed in (("a", 0), ("b", 1))
    )
    kernels = [params["quantizer"]["codebook"][...] for params in (before, first, other)]
    assert np.abs(kernels[1] - kernels[0]).max() > 0.01 and np.any(kernels[1] != kernels[2])
    for part in before:
        if part != "quantizer":
            read = lambda x: x[...]  # noqa: E731
            same = [jax.tree.map(read, params[part]) for params in (before, first)]
            jax.tree.map(np.testing.assert_array_equal, *same)


def test_what_is_told():
    """Breaks if losing less counts as losing more."""
    seeds = [
        {"MBAQ": {"lost": 1.0 + x, "kl": 0.1}, "mse": {"lost": 5.0 + x, "kl": 0.2}}
        for x in (0.0, 1.0)
    ]
    section = quantizers.tell(seeds, spread(seeds))
    assert "As the paper says, MBAQ loses less than mse: +4.0 points ± 0.0" in section.text
    assert "| mse | 5.50 ± 0.71 | 0.2000 ± 0.0000 |" in section.text
    seeds = [{"MBAQ": one["mse"], "mse": one["MBAQ"]} for one in seeds]
    text = quantizers.tell(seeds, spread(seeds)).text
    assert "**This contradicts the paper**, which says that MBAQ loses less than mse: -4.0" in text


@pytest.mark.slow
def test_two_steps_of_two_objectives(tmp_path, monkeypatch):
    """End to end on a small random model; then again, where nothing is left to do."""
    few = {name: quantizers.ARMS[name] for name in ("MBAQ", "mse")}

    def small(name, settings):
        config = load_config(name, settings)
        config.data.buckets = (BUCKETS["mbaq"],)
        return config

    monkeypatch.setattr(quantizers, "ARMS", few)
    monkeypatch.setattr(quantizers, "load_config", small)
    monkeypatch.setattr(asking.questions, "KINDS", ("size",))
    model = str(write_random_model(tmp_path / "model"))
    command = ["miniature", "--out", str(tmp_path / "out"), "--checkpoint", model]
    command += ["--parts", "quantizers", "--seeds", "0", "--steps", "2"]
    command += ["--states", "1", "--levels", "3"]
    assert main(command) == 0
    results = json.loads((tmp_path / "out/quantizers/results.json").read_text())
    found = results["seeds"]["0"]
    assert list(found) == ["MBAQ", "mse"] and found["MBAQ"]["kl"] != found["mse"]["kl"]
    monkeypatch.setattr(quantizers, "train", None)
    assert main(command) == 0
