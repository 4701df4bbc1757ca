"""The comparison of quantizers: its table, and what it asks of its models."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from latentum_jax.data.frozenlake import questions as asked_kinds
from latentum_jax.data.frozenlake.frames import draw
from latentum_jax.eval import quantizers
from latentum_jax.eval.questions import accuracy, held_out_states
from latentum_jax.images import see
from latentum_jax.models.folder import read_folder, write_folder
from latentum_jax.pretrained import LatentUM
from tests.models_on_disk import random_model, write_random_model


def test_table_by_hand():
    """Breaks if the loss is taken the wrong way round or not in points: 0.9 - 0.885 = 1.5."""
    found = {
        "codes": "2 x 64",
        "continuous": 0.9,
        "quantized": 0.885,
        "lost": {"mean": 0.015, "ci95": 0.004},
        "less_than_first": {"mean": 0.0, "ci95": 0.0},
        "kl": 0.00123,
    }
    text = quantizers.table({"checkpoints": {"run/mbaq": found}})
    assert "| mbaq | 2 x 64 | 90.0% | 88.5% | 1.5 ± 0.4 | 0.0 ± 0.0 | 0.0012 |" in text


def test_summary_by_hand(monkeypatch):
    """Breaks if kinds do not count alike, or the interval is not over states.

    Two kinds, two states. Quantized is right in (1, 1) and (0, 1), shares by state 0.5 and 1.0;
    continuous always. Lost by state: 0.5, 0.0; mean 0.25, standard deviation 0.5 / sqrt(2), error
    0.25, 1.96 times that is 0.49. KL: (0.2 + 0.4) / 4 tokens and 0 / 2 tokens, mean 0.075.
    """
    ones = np.ones(2)
    kinds = [
        {"continuous": ones, "quantized": ones, "kl": np.array([0.2, 0.4]), "tokens": 2 * ones},
        {
            "continuous": ones,
            "quantized": np.array([0.0, 1.0]),
            "kl": 0 * ones,
            "tokens": ones,
        },
    ]
    monkeypatch.setattr(quantizers.questions, "KINDS", ("map", "size"))
    found = quantizers._summary(random_model().config.quantizer, kinds, kinds)
    assert found["continuous"] == 1.0 and found["quantized"] == 0.75
    assert found["lost"] == pytest.approx({"mean": 0.25, "ci95": 0.49})
    assert found["less_than_first"] == {"mean": 0.0, "ci95": 0.0}
    assert found["kl"] == pytest.approx(0.075)


def test_one_pass_judges_as_generation_does():
    """Breaks if a right answer in one pass is not what greedy decoding writes, end included."""
    model = LatentUM.from_pretrained("frozenlake-tiny")
    rng = np.random.default_rng(0)
    states = held_out_states((4, 6), 24, 3)
    turns = [asked_kinds.ask("remaining", state, rng) for state in states]
    pictures = [see(draw(s), model.config.vision, resample="bicubic") for s in states]
    rows = quantizers.question_rows(model, pictures, turns)
    (answered,) = quantizers.answers([model], rows)
    said = accuracy(model, list(zip(states, turns, strict=True)))
    for way in ("continuous", "quantized"):
        assert answered[way].mean() == pytest.approx(said[way])
    assert 0 < answered["quantized"].mean() <= 1 and np.all(answered["kl"] > -1e-5)


def test_models_are_compared_on_one_vlm(tmp_path, monkeypatch):
    """Breaks if two runs of other VLMs are compared, or a file is missing."""
    monkeypatch.setattr(quantizers.questions, "KINDS", ("size",))
    for name in ("kl", "mse"):
        write_random_model(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("kl", "mse")]
    results = quantizers.compare(paths, (3, 4), 2, 0, tmp_path / "out")
    kl, mse = (results["checkpoints"][path] for path in paths)
    assert kl == mse  # the same random weights: any difference comes from the questions
    assert json.loads((tmp_path / "out/results.json").read_text()) == results
    assert (tmp_path / "out/table.md").read_text() == quantizers.table(results)
    folder = read_folder(paths[1])
    moved = {**folder.params, "mlp1": jax.tree.map(lambda x: x + 1, folder.params["mlp1"])}
    write_folder(paths[1], dataclasses.replace(folder, params=moved))
    with pytest.raises(ValueError, match="kl and .*mse differ in mlp1, expected one model"):
        quantizers.compare(paths, (3, 4), 2, 0, tmp_path / "no")
    assert not (tmp_path / "no").exists()
