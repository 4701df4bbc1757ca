"""Pictures in prompts: their slots, what fills them, and answers about tiles as InternVL's."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from latentum_jax import pretrained
from latentum_jax.config import ChatConfig
from latentum_jax.convert.published import read_model
from latentum_jax.generate import interleave as interleaving
from latentum_jax.generate.prompt import with_slots
from latentum_jax.generate.sampling import Sampling
from latentum_jax.images import load_image, tile_grid
from latentum_jax.models.folder import ModelFolder
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import user_turn
from tests.internvl import image_processor, random_internvl
from tests.models_on_disk import random_model
from tests.published import GOLDEN, config

QUESTION = "What is the color of the car?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny InternVL, its weights those of transformers' one."""
    path = tmp_path_factory.mktemp("internvl")
    random_internvl().save_pretrained(path)
    shutil.copyfile(GOLDEN / "tiny/tokenizer.json", path / "tokenizer.json")
    return LatentUM(read_model(path, config()))


@pytest.fixture
def prompts(monkeypatch):
    """The embedded prompts [T D] of all rows asked from now on."""
    rows = []

    def noted(model, params, prompt, lengths, *args, **settings):
        rows.extend(row[:n] for row, n in zip(np.asarray(prompt), lengths.tolist(), strict=True))
        return interleaving.interleave(model, params, prompt, lengths, *args, **settings)

    monkeypatch.setattr(pretrained, "interleave", noted)
    return rows


def picture(width, height):
    """Noise has no two tiles alike."""
    rng = np.random.default_rng(width * height)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def read_by_transformers(model, image, max_tiles, steps):
    """The embedded prompt [T D] of a picture and the question, and the likeliest tokens after it,
    by the whole model anew for each."""
    theirs, embedded = random_internvl(), []
    hook = theirs.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embedded.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    seen = image_processor(56, max_patches=max_tiles)(load_image(image), return_tensors="pt")
    slots = "<img>" + "<IMG_CONTEXT>" * 4 * len(seen["pixel_values"]) + "</img>"
    asked = user_turn(f"{slots}\n{QUESTION}", ChatConfig().system)
    tokens = torch.tensor([model.tokenizer.encode(asked)])
    with torch.no_grad():
        for _ in range(steps):
            logits = theirs(input_ids=tokens, pixel_values=seen["pixel_values"]).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    hook.remove()
    return embedded[0][0].numpy(), tokens[0, -steps:].tolist()


@pytest.mark.parametrize("max_tiles", [2, 6])
def test_tiles_are_read_as_by_transformers(model, max_tiles, prompts):
    """Breaks if tiles are lost, reach other slots, or the thumbnail is not the last."""
    image = GOLDEN / "preprocess/img.png"  # 150 x 90
    columns, rows = tile_grid((150, 90), 56, max_tiles)
    assert columns * rows > 1
    said = model.answer(image, QUESTION, max_tiles=max_tiles, max_new_tokens=8)
    embedded, tokens = read_by_transformers(model, image, max_tiles, 8)
    np.testing.assert_allclose(prompts[0], embedded, rtol=1e-4, atol=1e-4)
    assert model.ids.im_end not in tokens
    assert said == [model.tokenizer.decode(tokens).strip()]


@pytest.mark.parametrize("features", ["continuous", "quantized"])
def test_pictures_of_many_sizes_in_one_batch(model, features, prompts):
    """Breaks if a row reads its neighbour's tiles: 1, 7, 3 and 1 of them, each asked alone."""
    images = [picture(*shape) for shape in ((56, 56), (168, 112), (56, 120), (50, 50))]
    settings = {"max_tiles": 6, "max_new_tokens": 6, "features": features}
    settings["sampling"] = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    together = model.answer(images, QUESTION, seeds=[1, 2, 3, 4], **settings)
    for row, image in enumerate(images):
        (alone,) = model.answer(image, QUESTION, seeds=[row + 1], **settings)
        assert alone == together[row]
        np.testing.assert_allclose(prompts[4 + row], prompts[row], atol=1e-5)
    assert len(set(together)) == 4


def test_one_tile_is_the_published_squeeze(model):
    """Breaks if the default changes what a LatentUM was trained on."""
    image = picture(150, 90)
    squeezed = np.asarray(load_image(image).resize((56, 56), Image.Resampling.BICUBIC))
    once = model.answer(image, QUESTION, max_new_tokens=6)
    assert once == model.answer(squeezed, QUESTION, max_new_tokens=6)
    assert once != model.answer(image, QUESTION, max_tiles=6, max_new_tokens=6)


def test_slots_by_hand():
    """Breaks if pictures of one prompt change places."""
    made = with_slots("a <image> b <image>", [1, 2])
    assert made == "a <img><IMG_CONTEXT></img> b <img><IMG_CONTEXT><IMG_CONTEXT></img>"


def test_bad_input_is_refused_in_one_sentence(model):
    """Breaks if a question that names a slot shifts the pictures of the rows behind it."""
    image, seen_whole = picture(60, 60), random_model_on_a_canvas()
    for call, message in [
        (lambda: model.answer(image, "<image>?"), "is in 2 places of the prompt, expected 1"),
        (lambda: model.answer(image, "<IMG_CONTEXT>?"), "stands for a feature of an image"),
        (lambda: model.answer(image, "?", max_tiles=0), "0 tiles of 56 pixels"),
        (lambda: model.answer([], "?", max_tiles=2), "no images"),
        (lambda: model.plan([image], mode=["fine"] * 2), "2 modes for 1 images, expected as many"),
        (lambda: seen_whole.answer(image, "?", max_tiles=2), "max_tiles is 2, but this model sees"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)


def random_model_on_a_canvas():
    """The very small model, which sees pictures on a canvas as the bundled one does."""
    folder = random_model()
    vision = dataclasses.replace(folder.config.vision, canvas=64)
    changed = dataclasses.replace(folder.config, vision=vision)
    return LatentUM(ModelFolder(changed, folder.chat, folder.params, folder.tokenizer))
