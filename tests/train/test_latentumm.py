"""LatentUMM inside the unified model: whose mean each latent is, the terms, and a run."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch.nn import functional as F

from latentum_jax.config import AlignerConfig
from latentum_jax.configs.base import base
from latentum_jax.data.embeddings import write_side
from latentum_jax.data.faults import Faults
from latentum_jax.latentumm.aligner import Aligner, init_aligner_params
from latentum_jax.latentumm.folder import AlignerFolder, write_aligner_folder
from latentum_jax.latentumm.losses import rollouts
from latentum_jax.latentumm.mappers import Mappers, init_mapper_params
from latentum_jax.models.folder import read_folder
from latentum_jax.models.latentum import LatentUM
from latentum_jax.train.data import open_feed
from latentum_jax.train.loop import train_stage
from latentum_jax.train.stages import STAGES
from latentum_jax.train.stages.latentumm import (
    alignment_terms,
    latents,
    pair_count,
    targets_of,
    without_added,
)
from tests.models_on_disk import random_model, write_random_model
from tests.train.small_recipes import metrics_of

ALIGNER = AlignerConfig(text_dim=6, image_dim=7, latent_dim=5, hidden_size=8, num_heads=2)
OPTIONS = base(random_model().config).alignment
KEY = jax.random.key(0)


def teacher():
    return AlignerFolder(ALIGNER, init_aligner_params(ALIGNER, jax.random.key(4)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a JSONL of three samples with a picture to draw, their embeddings, an aligner."""
    path, rng = tmp_path_factory.mktemp("umm"), np.random.default_rng(0)
    write_random_model(path / "model")
    write_aligner_folder(path / "aligner", teacher())
    lines, ids = [], ["a", "b", "c"]
    for i, name in enumerate(ids):
        Image.new("RGB", (28, 28), (80 * i, 10, 200)).save(path / f"{name}.png")
        said = [{"type": "text", "text": "move"}, {"type": "image", "image": f"{name}.png"}]
        asked = [{"type": "text", "text": "left " * (i + 1)}]
        roles = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"id": name, "messages": roles}))
    (path / "data.jsonl").write_text("\n".join(lines))
    write_side(path / "e/text.npz", ids, rng.standard_normal((3, 6)))
    write_side(path / "e/image.npz", ids, rng.standard_normal((3, 7)))
    return path


def recipe(folder, **changes):
    """Four steps of two rows."""
    config = base(random_model().config)
    config.stage, config.steps, config.checkpoint_every = "latentumm", 4, 2
    config.init_from = str(folder / "model")
    config.aligner.latent_dim = 5
    config.optimizer.update({"warmup": 0, "end_share": 1.0})
    data = {"source": "jsonl", "path": str(folder / "data.jsonl"), "rows": 2, "length": 96}
    config.data.update(data | {"images": 1, "targets": 1})
    for key, value in changes.items():
        section = config
        for part in key.split("__")[:-1]:
            section = section[part]
        section[key.split("__")[-1]] = value
    return config


def test_latents_are_means_over_their_places():
    """U: two words, two slots of a picture, padding. G: a target of two places and one that is
    none. By hand, in width 1: z_t = (1 + 2) / 2 = 1.5; z_v = (10 + 20 + 100 + 200) / 4 = 82.5.
    Breaks if padding or a target that is none counts, or slots count as words."""
    batch = {
        "valid": jnp.array([[True, True, True, True, False]]),
        "image_index": jnp.array([[-1, 0, 1, -1, -1]]),
        "target_valid": jnp.array([[True, False]]),
    }
    hidden = {"und": jnp.array([[[1.0], [10], [20], [2], [9999]]])}
    hidden["gen"] = jnp.array([[[100.0], [200], [9999], [9999]]])
    codes = jnp.zeros((1, 2, 2, 3), jnp.int32)
    given = random_model()
    model, ids = LatentUM(given.config), given.tokenizer.ids
    z_t, z_v = latents(model, {}, batch, hidden, codes, ids, "sequence")
    chex.assert_trees_all_close((z_t, z_v), (jnp.array([[1.5]]), jnp.array([[82.5]])))
    # Without G the slots alone are left: (10 + 20) / 2.
    _, z_v = latents(model, {}, batch, hidden, None, ids, "sequence")
    np.testing.assert_allclose(z_v, [[15.0]])


def test_samples_without_an_image_are_no_pairs(folder):
    """Breaks if a row of words alone is pulled to a mean of nothing, 0."""
    config = recipe(folder)
    batch = {
        "valid": jnp.ones((3, 2), bool),
        "image_index": jnp.array([[-1, -1], [-1, 0], [-1, -1]]),
        "target_valid": jnp.array([[False], [False], [True]]),
    }
    assert pair_count(batch, config) == 2
    config.alignment.image = "read"
    assert pair_count(batch, config) == 1
    config.alignment.image, config.part = "sequence", "language"
    assert pair_count(batch, config) == 1


def test_terms_equal_torch():
    """m and n as GELU MLPs in torch. Breaks if m's and n's order is turned, a term is of one latent
    alone, or the target is taken before m."""
    params, mappers = init_mapper_params(8, 5, 0), Mappers(8, 5)
    rng = np.random.default_rng(2)
    z = rng.standard_normal((2, 3, 8)).astype(np.float32)
    e = rng.standard_normal((2, 3, 5)).astype(np.float32)

    def mlp(x, own):
        hidden = x @ torch.tensor(own["fc1"]["kernel"]) + torch.tensor(own["fc1"]["bias"])
        return F.gelu(hidden) @ torch.tensor(own["fc2"]["kernel"]) + torch.tensor(
            own["fc2"]["bias"]
        )

    terms, alike = alignment_terms(
        mappers, params, *jnp.asarray(z), tuple(jnp.asarray(e)), KEY, OPTIONS
    )
    both = torch.tensor(z)
    mapped = mlp(both, params["into"])
    again = mlp(mapped, params["back"])
    noisy = torch.tensor(np.array(rollouts(jax.random.fold_in(KEY, 2), jnp.asarray(z), 2, 0.05)))
    scores = F.cosine_similarity(both[None], mlp(mlp(noisy, params["into"]), params["back"]), -1)
    best, worst = scores.max(0).values, scores.min(0).values
    mse = lambda a, b: ((a - b) ** 2).mean(-1)  # noqa: E731
    expected = {
        "modal": mse(mapped[0], mapped[1]),
        "task": mse(both, again).mean(0),
        "target": mse(mapped, torch.tensor(e)).mean(0),
        "preference": -F.logsigmoid(best - worst).mean(0),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(alike["cosine"], F.cosine_similarity(*both), rtol=1e-5)
    without, _ = alignment_terms(mappers, params, *jnp.asarray(z), None, KEY, OPTIONS)
    assert set(without) == {"modal", "task", "preference"}


def test_targets_as_published_and_of_a_teacher():
    """Published: the data's own embeddings, of data that has none no target at all, teacher or
    not. Connected: the aligner's z_t and z_v. Breaks if the teacher's branch is dead here too."""
    made = teacher()
    rng = np.random.default_rng(3)
    e_t, e_v = (jnp.asarray(rng.standard_normal((2, d)), jnp.float32) for d in (6, 7))
    batch = {"text_embedding": e_t, "image_embedding": e_v}
    chex.assert_trees_all_equal(targets_of(None)({}, batch), (e_t, e_v))
    assert targets_of(None)({}, {}) is None and targets_of(made)({"teacher": {}}, {}) is None
    aligner, params = Aligner(ALIGNER), {"params": made.params}
    expected = (
        aligner.apply(params, e_t, method="encode_text"),
        aligner.apply(params, e_v, method="encode_image"),
    )
    chex.assert_trees_all_close(targets_of(made)({"teacher": made.params}, batch), expected)


def test_what_is_added_is_taken_out_again(folder):
    """Breaks if a model folder gets parameters that no model has, or the stage starts elsewhere."""
    given = random_model()
    config = recipe(folder, alignment__teacher=str(folder / "aligner"))
    stage = STAGES["latentumm"](LatentUM(given.config), config, given.tokenizer.ids)
    started = stage.start(given.params)
    assert set(started) - set(given.params) == {"mappers", "teacher"}
    chex.assert_trees_all_equal(started["teacher"], teacher().params)
    assert stage.finish(started).keys() == given.params.keys()
    assert without_added(given.params) == given.params
    again = stage.start(given.params)
    chex.assert_trees_all_equal(started["mappers"], again["mappers"])


@pytest.mark.slow
def test_a_run_without_a_teacher_goes_on_and_keeps_its_mappers(folder, tmp_path):
    """As published, on data without embeddings. Breaks if a run that was stopped goes another way,
    the model's folder cannot be read, or the mappers are lost."""
    config = recipe(folder, alignment__image="read")
    whole = train_stage(config, tmp_path / "whole")
    config.steps = 2
    train_stage(config, tmp_path / "parts")
    config.steps = 4
    parts = train_stage(config, tmp_path / "parts")
    losses = [[line["loss"] for line in metrics_of(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    lines = metrics_of(tmp_path / "whole")
    assert {"drawn", "text", "modal", "task", "preference", "mapped_cosine"} <= set(lines[0])
    assert "target" not in lines[0]
    total = sum(lines[0][name] for name in ("drawn", "text", "modal", "task", "preference"))
    assert lines[0]["loss"] == pytest.approx(total, rel=1e-5)
    chex.assert_trees_all_equal(*(read_folder(path).params for path in (whole, parts)))
    kept = load_file(whole.with_name("beside_model.safetensors"))
    fresh = init_mapper_params(config.model.language.hidden_size, 5, config.seed)
    assert set(kept) == {
        f"mappers/{m}/fc{i}/{x}"
        for m in ("into", "back")
        for i in (1, 2)
        for x in ("kernel", "bias")
    }
    assert not np.array_equal(kept["mappers/into/fc1/kernel"], fresh["into"]["fc1"]["kernel"])


def test_a_teacher_gives_the_targets(folder, tmp_path):
    """The first step's target, with z_t and z_v from the model and e_t, e_v from the aligner, lies
    by its weight of 0.01 in the loss. Breaks if a named teacher is read and not used."""
    options = {"data__embeddings": str(folder / "e"), "alignment__target": 1.0, "steps": 1}
    with_teacher = recipe(folder, alignment__teacher=str(folder / "aligner"), **options)
    done = train_stage(with_teacher, tmp_path / "teacher")
    (line,) = metrics_of(tmp_path / "teacher")
    assert line["target"] > 0
    names = ("drawn", "text", "modal", "task", "preference", "target")
    assert line["loss"] == pytest.approx(sum(line[name] for name in names), rel=1e-5)
    read_folder(done)
    kept = load_file(done.with_name("beside_model.safetensors"))
    assert {name.split("/")[0] for name in kept} == {"mappers"}  # the teacher has its own folder


def test_wrong_configs_are_named(folder, tmp_path):
    """Before anything is written."""
    embeddings = str(folder / "e")
    for message, config in {
        "alignment.image is 'pixels', expected one of": recipe(folder, alignment__image="pixels"),
        "which needs target images": recipe(folder, alignment__image="read", part="language"),
        "data.packed is True, expected a sample a row": recipe(folder, data__packed=True),
        "part is 'both'": recipe(folder, part="both"),
        "nowhere is not a model folder": recipe(folder, alignment__teacher="nowhere"),
        "is not an aligner of this library": recipe(
            folder, alignment__teacher=str(folder / "model")
        ),
        "target of width 6, 5 is that of the mappers": recipe(folder, data__embeddings=embeddings),
        "data.embeddings is .*, which rows of a jsonl alone have": recipe(
            folder, data__embeddings=embeddings, data__source="vqa"
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            train_stage(config, tmp_path / "work")
    assert not (tmp_path / "work" / "model").exists()


def test_rows_have_the_embeddings_of_their_ids(folder, tmp_path):
    """Breaks if a row gets another sample's, or one without embeddings trains without a word."""
    write_side(tmp_path / "e/text.npz", ["b", "a"], np.array([[2.0] * 5, [1.0] * 5]))
    write_side(tmp_path / "e/image.npz", ["a", "b"], np.array([[3.0] * 5, [4.0] * 5]))
    config = recipe(folder, data__embeddings=str(tmp_path / "e"))
    given, faults = random_model(), Faults(tmp_path / "bad.jsonl", 1)
    feed = open_feed(config, given.config, given.chat, given.tokenizer, faults)
    rows = [next(feed) for _ in range(4)]
    feed.close()
    pairs = {
        (float(t[0]), float(v[0]), int(n))
        for batch in rows
        for t, v, n in zip(
            batch["text_embedding"],
            batch["image_embedding"],
            batch["pixels"][:, 0, 0, 0, 0],
            strict=True,
        )
    }
    assert pairs == {(1.0, 3.0, 0), (2.0, 4.0, 80)}  # the pictures' red tells whose row it is
    (bad,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert "id 'c'" in bad["where"] and "no such id" in bad["reason"]
