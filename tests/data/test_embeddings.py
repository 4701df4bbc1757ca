"""Paired embeddings: every form reads alike, and what is wrong is named by file and id."""

import json

import chex
import numpy as np
import pytest

from latentum_jax.config import AlignerConfig
from latentum_jax.configs.base import base
from latentum_jax.data.embeddings import Embeddings, write_side
from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.train.data import open_embeddings, steps_of
from tests.small import SMALL

IDS = ["cat", "7", "dög"]
RNG = np.random.default_rng(0)
TEXT = RNG.standard_normal((3, 4)).astype(np.float32)
IMAGE = RNG.standard_normal((3, 5)).astype(np.float32)


def npz(folder, side, x):
    write_side(folder / f"{side}.npz", IDS, x)


def npy(folder, side, x):
    np.save(folder / f"{side}.npy", x)
    (folder / f"{side}.ids.json").write_text(json.dumps(IDS), "utf-8")


def by_id(folder, side, x):
    values = dict(zip(IDS, x.tolist(), strict=True))
    (folder / f"{side}.json").write_text(json.dumps(values), "utf-8")


def listed(folder, side, x):
    values = [{"id": name, "embedding": own} for name, own in zip(IDS, x.tolist(), strict=True)]
    (folder / f"{side}.json").write_text(json.dumps(values), "utf-8")


def one_each(folder, side, x):
    (folder / side).mkdir()
    for name, own in zip(IDS, x, strict=True):
        np.save(folder / side / f"{name}.npy", own)
    (folder / side / "cat.npy").unlink()
    (folder / side / "cat.json").write_text(json.dumps(x[0].tolist()))


FORMS = (npz, npy, by_id, listed, one_each)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_pairs(form, tmp_path):
    """The images are in another order than the texts. Breaks if pairs go by place, not by id."""
    form(tmp_path, "text", TEXT)
    values = {name: IMAGE[IDS.index(name)].tolist() for name in reversed(IDS)}
    (tmp_path / "image.json").write_text(json.dumps(values), "utf-8")
    found = Embeddings(tmp_path, widths={"text": 4, "image": 5})
    assert len(found) == 3 and found.widths == {"text": 4, "image": 5}
    for i, name in enumerate(IDS):
        pair = {"text": TEXT[i], "image": IMAGE[i]}
        chex.assert_trees_all_close(found.of(name), pair, rtol=1e-6)
        assert found.of(name)["text"].dtype == np.float32
    names = found.sides["text"].ids
    chex.assert_trees_all_close(found[1], found.of(names[1]))


def test_both_sides_in_one_file(tmp_path):
    """Breaks if a file of pairs needs a folder around it, or sides are swapped."""
    np.savez(tmp_path / "all.npz", ids=np.array(IDS), text=TEXT, image=IMAGE.astype(np.float16))
    entries = zip(IDS, TEXT.tolist(), IMAGE.tolist(), strict=True)
    entries = [{"id": name, "text": t, "image": v} for name, t, v in entries]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    for name in ("all.npz", "all.json"):
        pair = Embeddings(tmp_path / name).of("7")
        chex.assert_trees_all_close(pair, {"text": TEXT[1], "image": IMAGE[1]}, rtol=2e-3)


def test_rows_without_ids_are_numbered(tmp_path):
    """An .npy alone has ids "0", "1", ..."""
    np.save(tmp_path / "text.npy", TEXT)
    np.save(tmp_path / "image.npy", IMAGE)
    found = Embeddings(tmp_path)
    assert list(found.sides["image"].ids) == ["0", "1", "2"]
    np.testing.assert_array_equal(found.of("2")["image"], IMAGE[2])


def write(folder, text=None, image=None):
    """Both sides by id."""
    for side, values in (("text", text), ("image", image)):
        if values is not None:
            (folder / f"{side}.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "image", "said"),
    [
        ({"a": [1.0, 2]}, {"b": [1.0]}, r"image.json: id 'a' is missing, .*text.json has it"),
        ({"a": [1.0]}, {"a": [1.0], "b": [1.0]}, r"text.json: id 'b' is missing, .*image.json"),
        ({}, {}, r"text.json: there are no embeddings"),
        ({"a": [1.0, 2]}, None, r"none of image.npz, image.npy, image.json, image, expected one"),
        ({"a": [1.0, 2, 3]}, {"a": [1.0]}, r"text.json: id 'a' has 3 numbers, expected 2"),
        ({"a": "words"}, {"a": [1.0]}, r"text.json, id 'a': cannot be read as numbers"),
        ({"a": [[1.0]]}, {"a": [1.0]}, r"text.json, id 'a': an array \[1, 1\], expected one axis"),
        ([{"id": "a"}], {"a": [1.0]}, r"text.json is no file of .*: 'embedding' is missing"),
        (
            [{"id": "a", "embedding": [1, 2]}] * 2,
            {"a": [1.0]},
            r"text.json: id 'a' comes twice",
        ),
    ],
)
def test_what_is_wrong_is_named(text, image, said, tmp_path):
    """A traceback, or a message that leaves out the file or the id."""
    write(tmp_path, text, image)
    with pytest.raises(ValueError, match=said):
        Embeddings(tmp_path, widths={"text": 2, "image": 1})


def test_broken_files(tmp_path):
    """Breaks if a file cut short, or of something else, ends in another error than ValueError."""
    with pytest.raises(ValueError, match="there is no such file or folder"):
        Embeddings(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("1 2")
    with pytest.raises(ValueError, match="x.txt is no .npz, no .json and no folder"):
        Embeddings(tmp_path / "x.txt")
    np.savez(tmp_path / "x.npz", ids=np.array(IDS), text=TEXT)
    with pytest.raises(ValueError, match="x.npz is no file of embeddings with ids, text and image"):
        Embeddings(tmp_path / "x.npz")
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.npz is no file of embeddings"):
        Embeddings(tmp_path / "cut.npz")
    np.savez(tmp_path / "y.npz", ids=np.array(IDS[:2]), text=TEXT, image=IMAGE)
    with pytest.raises(ValueError, match="2 ids and 3 embeddings"):
        Embeddings(tmp_path / "y.npz")


def test_single_bad_vectors_are_bad_samples(tmp_path):
    """Breaks if NaN or a vector of another width trains, or takes the good ones with it."""
    text = {"a": [1.0, 2], "b": [1.0, float("nan")], "c": [1.0, 2, 3], "d": [3.0, 4]}
    write(tmp_path, text, dict.fromkeys(text, [1.0]))
    found = Embeddings(tmp_path)
    with pytest.raises(BadSample, match="text.json, id 'b': number 1 is nan, expected finite"):
        found[1]
    with pytest.raises(BadSample, match="text.json, id 'c': 3 numbers, expected 2"):
        found[2]
    with pytest.raises(BadSample, match="text.json, id 'e': there is no such id"):
        found.of("e")
    np.testing.assert_array_equal(found[3]["text"], [3, 4])
    assert not (found[0]["text"] == found[3]["text"]).any()


def feed_config(path):
    config = base(SMALL)
    config.data.update({"source": "embeddings", "path": str(path), "rows": 2})
    return config


ALIGNER = AlignerConfig(text_dim=4, image_dim=5, latent_dim=4, hidden_size=8, num_heads=2)


def test_the_feed_goes_on_where_it_stood(tmp_path):
    """Breaks if a run that goes on sees other pairs, or an epoch leaves one out."""
    npz(tmp_path, "text", TEXT)
    npz(tmp_path, "image", IMAGE)
    config = feed_config(tmp_path)
    feed = open_embeddings(config, ALIGNER, Faults(None, 0))
    made = [next(feed) for _ in range(3)]
    seen = np.concatenate([batch["text"] for batch in made])
    for row in TEXT:  # 3 batches of 2 are two epochs of 3
        assert (seen == row).all(1).sum() == 2
    state, late = feed.get_state(), next(feed)
    again = open_embeddings(config, ALIGNER, Faults(None, 0))
    again.set_state(state)
    chex.assert_trees_all_equal(next(again), late)
    feed.close(), again.close()
    other = config.copy_and_resolve_references()
    other.seed = 5
    orders = [open_embeddings(c, ALIGNER, Faults(None, 0)) for c in (config, other)]
    drawn = [np.concatenate([next(feed)["text"] for _ in range(6)]) for feed in orders]
    assert not np.array_equal(*drawn)


def test_epochs_become_steps(tmp_path):
    """3 passes over 3 pairs, 2 a step: 9 / 2, the last step begins a fourth pass."""
    npz(tmp_path, "text", TEXT)
    npz(tmp_path, "image", IMAGE)
    config = feed_config(tmp_path)
    config.epochs = 3
    assert steps_of(config) == 5
    config.steps = 2
    assert steps_of(config) == 2


def test_widths_are_those_of_the_aligner(tmp_path):
    """Breaks if a wrong width is found by a shape error while the step compiles."""
    npz(tmp_path, "text", TEXT)
    npz(tmp_path, "image", IMAGE)
    wide = AlignerConfig.tiny()
    with pytest.raises(ValueError, match="text.npz: id 'cat' has 4 numbers, expected 16"):
        open_embeddings(feed_config(tmp_path), wide, Faults(None, 0))
    config = feed_config(tmp_path)
    config.data.source = "jsonl"
    with pytest.raises(ValueError, match="data.source is 'jsonl', expected 'embeddings'"):
        open_embeddings(config, ALIGNER, Faults(None, 0))
