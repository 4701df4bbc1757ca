"""Rows: what they hold, what they refuse, and that questions packed into one stay apart."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import (
    InterleavedLines,
    RowBuilder,
    RowShape,
    caption_row,
    question_row,
    stack,
)
from latentum_jax.tokenizer import user_turn
from latentum_jax.train.stages.sequence import read_pictures, shown_pictures
from latentum_jax.train.stages.vlm import answer_logits
from tests.small import SMALL

LENGTH = SMALL.vision.num_tokens
TURNS = [("left?", "up"), ("move right or down?", "right"), ("Done?", "down!")]


def shape(length=80, images=1, targets=1):
    return RowShape(length, images, targets, SMALL.vision)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (28, 28, 3), np.uint8)


def plain_row(small, question, answer):
    """One question behind a picture, without any blocks."""
    head, tail = user_turn("\0", "").split("\0")
    builder = RowBuilder(small.tokenizer, shape(length=120)).text(head)
    builder.image(picture(), as_codes=False).text("\n").text(question + tail)
    return builder.text(answer + "<|im_end|>", learn=True).finish()


def test_packed_questions_are_as_if_alone(small):
    """A question that sees another one, or stands elsewhere, is answered differently."""
    packed_row = question_row(picture(), TURNS, small.tokenizer, shape(length=120), system="")
    rows = [packed_row, *(plain_row(small, *turn) for turn in TURNS)]
    prefix = (packed_row["valid"] & (packed_row["block"] == 0)).sum()
    assert packed_row["block"].max() == 3  # all three fitted

    @jax.jit
    def run(params, batch):
        pictures = read_pictures(small.model, params, batch, quantize=False)
        shown = shown_pictures(small.model, params, batch, pictures, None)
        return answer_logits(small.model, params, batch, shown)

    logits = np.asarray(run(small.params, jax.tree.map(jnp.asarray, stack(rows))))
    for number in range(1, 4):
        packed = rows[0]["block"] == number
        alone = rows[number]["valid"] & (np.arange(120) >= prefix)
        np.testing.assert_array_equal(rows[0]["tokens"][packed], rows[number]["tokens"][alone])
        np.testing.assert_array_equal(rows[0]["labels"][packed], rows[number]["labels"][alone])
        np.testing.assert_allclose(logits[0][packed], logits[number][alone], atol=1e-5)


def test_questions_that_do_not_fit_are_left_out(small):
    """A cut question would train on half an answer."""
    row = question_row(picture(), TURNS * 9, small.tokenizer, shape(), system="")
    said = row["tokens"][row["labels"] >= 0].tolist()
    assert row["block"].max() >= 1
    assert said.count(small.tokenizer.ids.im_end) == row["block"].max()


def test_square_averaging(small):
    """By hand: an answer of n tokens and its end weighs (n + 1) / sqrt(n + 1) in all."""
    row = question_row(picture(), TURNS, small.tokenizer, shape(length=120), system="")
    for number, (_, answer) in enumerate(TURNS, 1):
        labels = len(small.tokenizer.encode(answer)) + 1
        weight = row["weights"][row["block"] == number].sum()
        assert weight == pytest.approx(labels**0.5)
    assert not row["weights"][row["labels"] < 0].any()


def test_an_image_s_row(small):
    """By hand: `<img>`, the slots and `</img>`, what is learnt, and where the G block starts."""
    ids = small.tokenizer.ids
    builder = RowBuilder(small.tokenizer, shape(length=12))
    builder.text("<|im_start|>").image(picture(), as_codes=True, target=True, learn=True)
    row = builder.text("<|im_end|>", learn=True).finish()
    tokens = [ids.im_start, ids.img, *[ids.img_context] * 4, ids.img_end, ids.im_end]
    assert row["tokens"].tolist() == tokens + [ids.pad] * 4
    learnt = [-100, ids.img, *[-100] * 5, ids.im_end, *[-100] * 4]
    assert row["labels"].tolist() == learnt
    assert row["weights"].tolist() == [float(label >= 0) for label in learnt]
    assert row["image_index"].tolist() == [-1, -1, 0, 1, 2, 3] + [-1] * 6
    assert (row["target_slot"].tolist(), row["target_position"].tolist()) == ([0], [1])
    assert row["position"][:8].tolist() == row["context"][:8].tolist() == list(range(8))
    assert row["valid"].tolist() == [True] * 8 + [False] * 4
    assert row["as_codes"].tolist() == row["target_valid"].tolist() == [True]
    np.testing.assert_array_equal(row["pixels"][0], picture())


def test_a_caption_s_picture_stands_behind_the_text(small):
    """Its G block starts where the text ends, and U holds no slots for it."""
    row = caption_row("up down", picture(), small.tokenizer, shape())
    count = len(small.tokenizer.encode("up down"))
    assert row["valid"].sum() == count == row["target_position"][0]
    assert (row["image_index"] == -1).all()


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"length": 5}, "a sample has 6 tokens, at most 5 fit"),
        ({"images": 0}, "a sample has 1 images, at most 0 fit"),
        ({"targets": 0}, "a sample has 1 target images, at most 0 fit"),
    ],
)
def test_what_does_not_fit(small, sizes, message):
    """Cut silently, it would train on half a picture."""
    builder = RowBuilder(small.tokenizer, shape(**sizes))
    with pytest.raises(ValueError, match=message):
        builder.image(picture(), as_codes=True, target=True).finish()


GOOD = {
    "messages": [
        {"role": "user", "content": [{"type": "image", "image": "a/b.png"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
    ]
}


def test_images_are_found_beside_the_file(tmp_path):
    """Paths are relative to the file's folder, wherever the program runs."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD) + "\n")
    samples = InterleavedLines(path)
    assert len(samples) == 2
    assert samples[1]["messages"][0]["content"][0]["image"] == str(tmp_path / "a/b.png")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "not JSON"),
        ("[]", "expected messages with role and content"),
        ('{"id": 1}', "expected messages with role and content"),
        (json.dumps({"messages": GOOD["messages"][:1]}), r"got \['user'\]"),
        (json.dumps({"messages": GOOD["messages"][::-1]}), r"got \['assistant', 'user'\]"),
        ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "'text'"),
        ('{"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}', "string"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    """In a million lines, which one?"""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    samples = InterleavedLines(path)
    assert samples[0]["messages"][1]["content"][0]["text"] == "hi"
    with pytest.raises(BadSample, match=rf"data\.jsonl, line 2: .*{message}"):
        samples[1]
