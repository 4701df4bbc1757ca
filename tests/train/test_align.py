"""The aligner's stages: the terms as they are written, and runs through the loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentum_jax.config import AlignerConfig
from latentum_jax.data.embeddings import write_side
from latentum_jax.latentumm.aligner import Aligner, init_aligner_params
from latentum_jax.latentumm.folder import read_aligner_folder
from latentum_jax.train.loop import train_stage
from latentum_jax.train.recipe import load_config
from latentum_jax.train.stages import ALIGNER_STAGES
from tests.train.small_recipes import metrics_of

TINY = AlignerConfig.tiny()
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of 10 pairs."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    ids = [f"s{i}" for i in range(10)]
    write_side(folder / "text.npz", ids, rng.standard_normal((10, TINY.text_dim)))
    write_side(folder / "image.npz", ids, rng.standard_normal((10, TINY.image_dim)))
    return folder


def recipe(name, pairs, **changes):
    """A published recipe at the smallest size, 4 pairs a step."""
    config = load_config(name, {})
    config.aligner.update(TINY.to_dict())
    config.data.path, config.data.rows, config.checkpoint_every = str(pairs), 4, 2
    for key, value in changes.items():
        config[key] = value
    return config


def terms_of(stage, latent="text"):
    """Of one batch, without dropout; the parameters and z, G(z), enc(G(z)) beside them."""
    config = recipe(f"latentumm_{'align' if stage == 'align' else 'dynamics'}", "")
    config.aligner.dropout, config.alignment.latent = 0.0, latent
    aligner = AlignerConfig.from_dict(config.aligner.to_dict())
    model, params = Aligner(aligner), init_aligner_params(aligner, jax.random.key(0))
    rng = np.random.default_rng(1)
    draw = lambda width: jnp.asarray(rng.standard_normal((4, width)), jnp.float32)  # noqa: E731
    batch = {"text": draw(TINY.text_dim), "image": draw(TINY.image_dim)}
    run = lambda method, *args: model.apply({"params": params}, *args, method=method)  # noqa: E731
    terms, (metrics, _) = ALIGNER_STAGES[stage](model, config).loss(params, {}, batch, KEY)
    both = batch["text"], batch["image"]
    z_t, z_v = run("encode_text", both[0]), run("encode_image", both[1])
    z = z_t if latent == "text" else run("fuse", *both)
    made = {"z_t": z_t, "z_v": z_v, "z": z, "made": run("generate", z), "v": both[1]}
    made["again"] = run("reencode", z)
    return terms, metrics, {name: torch.tensor(np.array(x)) for name, x in made.items()}


@pytest.mark.parametrize("latent", ["text", "fused"])
def test_stage_1_is_the_weighted_sum(latent):
    """1, 1 and 0.1. Breaks if a term takes the other latent, or a weight is another's."""
    terms, _, x = terms_of("align", latent)
    expected = {
        "modal": F.mse_loss(x["z_t"], x["z_v"]),
        "task": F.mse_loss(x["z"], x["again"]),
        "generation": 0.1 * F.mse_loss(x["made"], x["v"]),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_stage_2_adds_the_preference():
    """The weighted preference of K = 4 scores lies above 0.1 log sigmoid(-0), as far as they
    spread, and the terms of stage 1 are as before."""
    first, _, _ = terms_of("align")
    terms, metrics, _ = terms_of("align_dynamics")
    chex.assert_trees_all_close({name: terms[name] for name in first}, first, rtol=1e-6)
    value, spread = float(terms["preference"]), float(metrics["spread"])
    assert 0 < spread < 1 and 0.5 < float(metrics["score"] + 1) < 2
    # -log sigmoid is convex: its mean is not below that of the mean spread; it falls from log 2.
    assert 0.1 * np.log1p(np.exp(-spread)) - 1e-7 <= value < 0.1 * np.log(2)


@pytest.mark.slow
def test_a_chain_of_both_stages_and_its_folder(pairs, tmp_path):
    """8 steps are 3 passes over 10 pairs in fours. Breaks if stage 2 does not start from stage 1,
    or the aligner of a run cannot be read."""
    first = train_stage(recipe("latentumm_align", pairs), tmp_path / "1")
    assert [line["step"] for line in metrics_of(tmp_path / "1")] == list(range(1, 9))
    config = recipe("latentumm_dynamics", pairs, init_from=str(first), steps=2)
    second = train_stage(config, tmp_path / "2")
    assert all(np.isfinite(x) for line in metrics_of(tmp_path / "2") for x in line.values())
    before, after = (read_aligner_folder(path).params for path in (first, second))
    fresh = init_aligner_params(TINY, jax.random.key(0))
    far = lambda a, b: max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))  # noqa: E731
    # Two steps of AdamW at 1e-5 move a weight by at most about 2e-5; eight at 1e-4 by more.
    assert 0 < far(before, after) < 5e-5 < far(fresh, before)


def test_a_run_goes_on_to_the_same_end(pairs, tmp_path):
    """Stopped after 2 steps of 4 and started again. Breaks if dropout, rollouts or the order of
    the pairs depend on anything but seed and step."""
    config = recipe("latentumm_dynamics", pairs, steps=4)
    whole = train_stage(config, tmp_path / "whole")
    config.steps = 2
    train_stage(config, tmp_path / "parts")
    config.steps = 4
    parts = train_stage(config, tmp_path / "parts")
    losses = [[line["loss"] for line in metrics_of(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    chex.assert_trees_all_equal(*(read_aligner_folder(path).params for path in (whole, parts)))


def test_a_bad_pair_is_passed_over(pairs, tmp_path):
    """Breaks if NaN reaches the loss, or ends the run."""
    rng, ids = np.random.default_rng(0), ["a", "b", "c", "d", "e"]
    text = rng.standard_normal((5, TINY.text_dim))
    text[1, 3] = np.nan
    write_side(tmp_path / "e/text.npz", ids, text)
    write_side(tmp_path / "e/image.npz", ids, rng.standard_normal((5, TINY.image_dim)))
    train_stage(recipe("latentumm_align", tmp_path / "e", steps=4), tmp_path / "run")
    lines = metrics_of(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) for line in lines) and lines[-1]["bad_samples"] == 1
    assert "text.npz, id 'b'" in (tmp_path / "run/bad_samples.jsonl").read_text()


def test_wrong_configs_are_named(pairs, tmp_path):
    """Before anything is written."""
    odd, wide, other = (recipe("latentumm_align", pairs) for _ in range(3))
    odd.alignment.latent = "image"
    wide.aligner.text_dim = 17
    other.stage = "alig"
    for message, config in {
        "alignment.latent is 'image', expected one of": odd,
        "text.npz: id 's0' has 16 numbers, expected 17": wide,
        "stage is 'alig', expected one of .*'align_dynamics'": other,
        "is not a model folder": recipe("latentumm_align", pairs, init_from=str(pairs)),
    }.items():
        with pytest.raises(ValueError, match=message):
            train_stage(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()
