"""Embeddings of one's own texts and pictures, which the stages read; and consistency by command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from latentum_jax import cli
from latentum_jax.data.embeddings import Embeddings
from latentum_jax.embed import image_features, image_latents, text_latents
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.mome import Stream
from latentum_jax.pretrained import LatentUM
from tests.models_on_disk import random_model, write_random_model

TEXTS = ["move up", "left left right down " * 9]


@pytest.fixture(scope="module")
def model():
    return LatentUM(random_model())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, two texts and two pictures of the same ids."""
    path = tmp_path_factory.mktemp("embed")
    write_random_model(path / "model")
    (path / "pictures").mkdir()
    lines = [json.dumps({"id": name, "text": text}) for name, text in zip("ab", TEXTS, strict=True)]
    (path / "texts.jsonl").write_text("\n".join(lines))
    for i, name in enumerate("ab"):
        Image.new("RGB", (28, 28), (200 * i, 50, 90)).save(path / f"pictures/{name}.png")
    return path


def hidden(small, x):
    """The understanding branch's states [1 T D] of embeddings."""
    at = Placement.causal(jnp.arange(x.shape[1])[None])
    return np.asarray(small.run("hidden", {"und": x}, Stream({"und": at}))[0]["und"])


def test_texts_are_means_of_their_own_tokens(model, small):
    """Two of unequal length at once. Breaks if padding counts or is seen."""
    made = text_latents(model, TEXTS)
    for text, row in zip(TEXTS, made, strict=True):
        x = small.run("embed", jnp.asarray([model.tokenizer.encode(text)]))
        np.testing.assert_allclose(row, hidden(small, x)[0].mean(0), atol=2e-5)
    with pytest.raises(ValueError, match="text 1 is empty"):
        text_latents(model, ["words", ""])


def test_images_are_read_as_their_codes_alone(model, small):
    """`<img>`, 4 visual tokens and `</img>`, of which the 4 count."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, (2, model.config.vision.num_tokens, 2)).astype(np.int32)
    ends = small.run("embed", jnp.asarray([[model.ids.img, model.ids.img_end]]))
    made = image_latents(model, codes)
    for own, row in zip(codes, made, strict=True):
        shown = small.run("show", jnp.asarray(own[None]))
        x = jnp.concatenate([ends[:, :1], shown, ends[:, 1:]], axis=1)
        np.testing.assert_allclose(row, hidden(small, x)[0, 1:-1].mean(0), atol=2e-5)


def test_the_command_makes_pairs_that_are_read(folder, model, capsys):
    """Breaks if ids do not meet, or pictures and texts are swapped."""
    out = folder / "out"
    given = ["--texts", str(folder / "texts.jsonl"), "--images", str(folder / "pictures")]
    argv = ["embed", *given, "--checkpoint", str(folder / "model"), "--out", str(out)]
    assert cli.main(argv) == 0
    assert f"2 embeddings of width 32 in {out / 'text.npz'}" in capsys.readouterr().out
    pairs = Embeddings(out)
    np.testing.assert_allclose(pairs.of("b")["text"], text_latents(model, TEXTS)[1], atol=2e-5)
    features = image_features(model, [folder / "pictures/b.png"] * 2)
    np.testing.assert_allclose(pairs.of("b")["image"], features[0], atol=2e-5)


def test_wrong_input_is_named(folder, tmp_path, capsys):
    """One sentence, and nothing written."""
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    for argv, words in (
        (["--texts", str(tmp_path / "bad.jsonl")], "bad.jsonl, line 2: expected an id and a text"),
        (["--texts", str(tmp_path / "no.jsonl")], "no.jsonl: there is no such file"),
        (["--images", str(tmp_path)], "has no pictures"),
        ([], "nothing to embed"),
        (["--sentences", str(folder / "model")], "model_type is None, expected 'bert'"),
    ):
        given = ["--checkpoint", str(folder / "model"), "--out", str(tmp_path / "out")]
        assert cli.main(["embed", *argv, *given]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_eval_consistency(folder, tmp_path, capsys):
    """A user's own captions are drawn and compared; of such there is no round trip in fields."""
    (tmp_path / "captions.txt").write_text("move up\nmove down\n")
    argv = ["eval", "consistency", "--captions", str(tmp_path / "captions.txt"), "--guidance", "1"]
    argv += ["--checkpoint", str(folder / "model"), "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["captions"] == 2 and "round_trip" not in found and len(found["told"]) == 2
    assert -1 <= found["cosine"]["mean"] <= 1
    assert "| nearest is its own |" in capsys.readouterr().out
