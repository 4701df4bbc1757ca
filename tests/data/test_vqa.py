"""Questions in LLaVA's layout: what a record becomes, and which record is broken."""

import json

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import RowShape, question_row
from latentum_jax.data.vqa import Conversations, conversation_row
from latentum_jax.images import see
from tests.small import SMALL


def says(*values, first="human"):
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)]


RECORDS = [
    {"id": 1, "image": "a/0.png", "conversations": says("<image>\nleft?", "up", "Done?", "down!")},
    {"id": 2, "conversations": says("move right\n", "right")},
    {"id": 3, "image": "a/0.png", "conversations": says("up?\n<image>", "left")},
    {"id": 4, "conversations": says("Hello", "move?", "up", first="gpt")},
]
TURNS = [
    (("left?", "up"), ("Done?", "down!")),
    (("move right\n", "right"),),
    (("up?", "left"),),
    (("move?", "up"),),
]


def write(path, records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(json.dumps(records, indent=1) if path.suffix == ".json" else lines)
    return path


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_records_of_both_files(tmp_path, name):
    """The mark left in, it would be read as text; the picture is put first by the row."""
    source = Conversations(write(tmp_path / name, RECORDS), tmp_path / "root")
    assert [source[n].turns for n in range(len(source))] == TURNS
    images = [tmp_path / "root/a/0.png", None]
    assert [sample.image for sample in source] == [images[0], images[1], images[0], images[1]]
    where = "entry 3" if name == "data.json" else "line 3"
    assert source[2].where == source.where(2) == f"{tmp_path / name}, {where}"


ODD = "expected conversations of from and value"


@pytest.mark.parametrize(
    "record, message",
    [
        (3, ODD),
        ({}, ODD),
        ({"conversations": [{"from": "human"}]}, ODD),
        ({"conversations": says("a", 1)}, ODD),
        ({"image": 7, "conversations": says("a", "b")}, ODD),
        ({"image": ["a.png"], "conversations": says("a", "b")}, ODD),
        ({"conversations": []}, r"expected human and gpt in turns, got \[\]"),
        ({"conversations": says("a")}, r"in turns, got \['human'\]"),
        ({"conversations": says("a", "b", "c")}, "in turns"),
        ({"conversations": [*says("a", "b"), *says("c", first="gpt")]}, "in turns"),
        ({"conversations": says("<image>a", "b")}, "1 <image> and 0 pictures"),
        ({"image": "a", "conversations": says("<image><image>", "b")}, "2 <image> and 1 pictures"),
    ],
)
@pytest.mark.parametrize("name, where", [("data.json", "entry 2"), ("data.jsonl", "line 2")])
def test_broken_records_are_named(tmp_path, name, where, record, message):
    """One of 665 thousand must not end the run, nor be hard to find."""
    source = Conversations(write(tmp_path / name, [RECORDS[0], record, RECORDS[1]]), tmp_path)
    with pytest.raises(BadSample, match=rf"{name}, {where}: .*{message}"):
        source[1]
    assert source[2].turns == TURNS[1]


def test_a_broken_line(tmp_path):
    """In JSONL the others can still be read."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n{\n")
    source = Conversations(path, tmp_path)
    assert source[0].turns == TURNS[0]
    with pytest.raises(BadSample, match=r"data\.jsonl, line 2: not JSON"):
        source[1]


@pytest.mark.parametrize(
    "text, message",
    [
        (" \n[{", r"data: starts as a JSON array and is none"),
        ("[]", "data: there are no records in it"),
        ("", "data: there are no lines in it"),
        (None, "data: there is no such file"),
    ],
)
def test_broken_files(tmp_path, text, message):
    """Said before any training starts, with the path."""
    if text is not None:
        (tmp_path / "data").write_text(text)
    with pytest.raises(ValueError, match=message):
        Conversations(tmp_path / "data", tmp_path)


def shape(length=120):
    return RowShape(length, 1, 0, SMALL.vision)


def test_a_row_with_its_picture(tmp_path, small):
    """It is what `question_row` makes of the decoded picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/0.png")
    sample = Conversations(write(tmp_path / "data.json", RECORDS), tmp_path)[0]
    seen = see(pixels, SMALL.vision)
    expected = question_row(seen, TURNS[0], small.tokenizer, shape(), system="up")
    row = conversation_row(sample, small.tokenizer, shape(), system="up")
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(row[name], value)


def test_a_row_of_text_alone(tmp_path, small):
    """No slot may be left for a picture that is not there."""
    sample = Conversations(write(tmp_path / "data.json", RECORDS), tmp_path)[1]
    row = conversation_row(sample, small.tokenizer, shape(), system="")
    assert small.tokenizer.ids.img not in row["tokens"] and not row["pixels"].any()
    assert (row["image_index"] == -1).all()
    said = small.tokenizer.decode(row["tokens"][row["valid"]].tolist(), keep_special=True)
    asked = "<|im_start|>user\nmove right\n<|im_end|>\n<|im_start|>assistant\nright<|im_end|>"
    assert said == asked
    learnt = row["labels"][row["labels"] >= 0].tolist()
    assert small.tokenizer.decode(learnt, keep_special=True) == "right<|im_end|>"


def test_samples_that_make_no_row(tmp_path, small):
    """A row with nothing to learn, or a picture that is not there, is a broken sample."""
    source = Conversations(write(tmp_path / "data.json", RECORDS), tmp_path)
    with pytest.raises(BadSample, match=r"entry 1: image .*0\.png: cannot be read"):
        conversation_row(source[0], small.tokenizer, shape(), system="")
    with pytest.raises(BadSample, match="entry 2: no question fits into 20 tokens"):
        conversation_row(source[1], small.tokenizer, shape(20), system="")
