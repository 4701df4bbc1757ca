"""Entries of tensorflow-datasets, which stands here as what it returns."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.datasets import TextImages, open_tfds
from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import RowShape
from latentum_jax.data.text_image import text_image_row
from latentum_jax.images import load_image
from tests.small import SMALL

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def only(entry, **features):
    return TextImages([entry], "birds", **features)[0]


def test_features_by_name():
    """The text of one language as the caption, the picture as it is."""
    entry = {"photo": RGB, "captions": {"en": b"a bird", "de": "ein Vogel"}}
    for language, text in [("en", "a bird"), ("de", "ein Vogel")]:
        sample = only(entry, image="photo", text=f"captions/{language}")
        assert (sample.where, sample.text) == ("birds, entry 0", text)
        np.testing.assert_array_equal(sample.image, RGB)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(channels):
    """They become what the same picture in a file becomes."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, channels), np.uint8)
    Image.fromarray(pixels.squeeze()).save(file := io.BytesIO(), "PNG")
    sample = only({"image": pixels, "text": "x"})
    np.testing.assert_array_equal(sample.image, np.asarray(load_image(file.getvalue())))


def test_a_row_of_an_entry(small):
    """Both kinds of pictures, pixels and files, go into rows."""
    Image.fromarray(RGB).save(file := io.BytesIO(), "PNG")
    shape = RowShape(40, 1, 1, SMALL.vision)
    rows = [
        text_image_row(only({"image": image, "text": "up"}), small.tokenizer, shape)()
        for image in (RGB, file.getvalue())
    ]
    np.testing.assert_array_equal(rows[0]["pixels"], rows[1]["pixels"])
    assert rows[0]["pixels"].any()


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"image": RGB}, r"expected a feature text, text is not in \['image'\]"),
        ({"text": "x"}, r"expected a feature image"),
        ({"image": RGB, "text": 3}, "expected a text as text, got 3"),
        ({"image": RGB, "text": b" "}, "expected a text as text"),
        ({"image": RGB, "text": b"\xff"}, "text is not UTF-8"),
        ({"image": RGB / 255, "text": "x"}, r"a picture of float64 \[20, 30, 3\], expected uint8"),
        ({"image": RGB[0], "text": "x"}, r"a picture of uint8 \[30, 3\]"),
        ({"image": "a.png", "text": "x"}, "a picture of <U5"),
    ],
)
def test_entries_that_are_no_sample(entry, message):
    """A wrong feature name must say which names there are."""
    with pytest.raises(BadSample, match=f"birds, entry 0: .*{message}"):
        only(entry)


def test_no_entries():
    """Said before any training starts."""
    with pytest.raises(ValueError, match="birds: there are no entries"):
        TextImages([], "birds")


def test_what_the_library_is_asked(monkeypatch):
    """The split and the folder are handed on, and its errors become one sentence."""
    asked = {}

    def data_source(name, **options):
        asked.update(options, name=name)
        if name != "birds":
            raise RuntimeError(f"no {name}\nhere is what there is:")
        return [{"image": RGB, "words": "x"}]

    fake = types.SimpleNamespace(data_source=data_source)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    source = open_tfds("birds", "train[:9]", folder="/data", text="words")
    assert asked == {"name": "birds", "split": "train[:9]", "data_dir": "/data", "download": False}
    assert source[0].where == "birds, split train[:9], entry 0"
    with pytest.raises(ValueError, match=r"^bees, split test: cannot be opened \(no bees\)$"):
        open_tfds("bees", "test")


def test_without_the_library(monkeypatch):
    """One sentence that says what to install."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"birds: .*`pip install latentum_jax\[tfds\]`"):
        open_tfds("birds", "train")
