"""Samples that share a row are as if each had one to itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.data.interleaved import RowShape, caption_row, question_row, stack
from latentum_jax.data.packing import fits, pack, size_of
from latentum_jax.train.stages.sequence import dual_sequence
from tests.small import SMALL

ONE = RowShape(24, 1, 1, SMALL.vision)
MANY = RowShape(48, 3, 2, SMALL.vision)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 255, (28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def rows(small):
    """Two captions with pictures to draw, and two questions about another picture."""
    asked = [("up", "down"), ("left", "move right")]
    questions = dataclasses.replace(ONE, length=40)
    return [
        caption_row("move up", picture(0), small.tokenizer, ONE),
        question_row(picture(1), asked, small.tokenizer, questions, system=""),
        caption_row("down", picture(2), small.tokenizer, ONE),
    ]


def run(small, batch):
    """Hidden states of U and G, and the target codes."""
    forward = lambda params, batch: dual_sequence(  # noqa: E731
        small.model, params, batch, jax.random.key(0), img=small.tokenizer.ids.img
    )
    hidden, codes = jax.jit(forward)(small.params, batch)
    return hidden["und"], hidden["gen"], codes


def test_packed_samples_see_themselves_alone(small, rows):
    """Breaks if a token sees another sample's, stands elsewhere, or shows another's picture."""
    wide = RowShape(80, 3, 2, SMALL.vision)
    packed = pack(rows, wide)
    und, gen, codes = run(small, stack([packed]))
    begin, drawn = 0, 0
    length = SMALL.vision.num_tokens
    for row in rows:
        alone_und, alone_gen, alone_codes = run(small, stack([row]))
        count = int(row["valid"].sum())
        theirs = np.asarray(alone_und[0, :count])
        np.testing.assert_allclose(und[0, begin : begin + count], theirs, atol=1e-5)
        begin += count
        if row["target_valid"].any():
            ours = np.asarray(gen).reshape(2, length, -1)[drawn]
            np.testing.assert_allclose(ours, np.asarray(alone_gen)[0], atol=1e-5)
            np.testing.assert_array_equal(codes[0, drawn], alone_codes[0, 0])
            drawn += 1
    assert drawn == 2 and begin == int(packed["valid"].sum())


def test_what_is_learnt_goes_along(rows):
    """Breaks if a label or its weight is lost or a padding place counts."""
    packed = pack(rows, RowShape(80, 3, 2, SMALL.vision))
    count = lambda row: int((row["labels"] >= 0).sum())  # noqa: E731
    assert count(packed) == sum(map(count, rows)) > 0
    weight = lambda row: float((row["weights"] * (row["labels"] >= 0)).sum())  # noqa: E731
    assert weight(packed) == pytest.approx(sum(map(weight, rows)))
    assert (packed["labels"][~packed["valid"]] == -100).all()


def test_sizes_are_tokens_pictures_and_targets(small, rows):
    """A caption of n words has n tokens, one picture and one target."""
    words = len(small.tokenizer.encode("move up"))
    assert size_of(rows[0], ONE).tolist() == [words, 1, 1]
    assert size_of(rows[1], ONE)[1:].tolist() == [1, 0]
    caption = np.array([10, 1, 1])
    assert fits([caption] * 2, MANY) and not fits([caption] * 3, MANY)  # targets
    assert not fits([np.array([30, 1, 0])] * 2, MANY)  # tokens
    with pytest.raises(ValueError, match="tokens, pictures, targets do not fit"):
        pack([rows[0]] * 3, MANY)


def test_padding_changes_nothing(small, rows):
    """Breaks if what a row was packed from shows behind its end."""
    one, other = (pack([rows[0], last], MANY) for last in (rows[2], rows[2]))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert not one["valid"][int(one["valid"].sum()) :].any()
    assert jnp.asarray(one["base"]).max() == 1
