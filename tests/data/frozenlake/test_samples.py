"""Interleaved samples: the published form, and what is written to disk."""

import json

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data.frozenlake.frames import draw, states
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.data.frozenlake.samples import (
    COARSE_PROMPT,
    PROMPT,
    SHORT_PROMPT,
    coarse_sample,
    fine_sample,
    read_action_plan,
)
from latentum_jax.data.messages import write_jsonl

RING = Maze(("SFF", "FHF", "FFG"))


def text(string):
    return {"type": "text", "text": string}


def image(state):
    return {"type": "image", "image": state}


def test_fine_sample_is_the_published_conversation():
    """A picture would be missing, shown before its move, or show another state than after it."""
    walk = states(RING, "DDRR")
    sample = fine_sample(RING)
    assert sample["messages"] == [
        {"role": "user", "content": [text(PROMPT), image(walk[0])]},
        {
            "role": "assistant",
            "content": [
                *(text("D"), image(walk[1]), text("D"), image(walk[2])),
                *(text("R"), image(walk[3]), text("R"), image(walk[4]), text("Done!")),
            ],
        },
    ]
    assert fine_sample(RING)["id"] == sample["id"] != fine_sample(RING, "RRDD")["id"]


def test_prompts():
    """The published prompt is what published models were trained on, to the letter."""
    assert PROMPT.startswith("You are navigating a grid-based frozen lake maze. Your goal is to")
    assert "\n\nRules:\n- You can move one square at a time: U (up), D (down)," in PROMPT
    assert 'When you reach the goal, output "Done!" to finish.\n\nHere is the initial' in PROMPT
    assert PROMPT.endswith("Here is the initial maze state: ")
    user = fine_sample(RING, prompt=SHORT_PROMPT)["messages"][0]["content"]
    assert user[0] == text("Solve the maze one move at a time, drawing each state.")


def test_fine_sample_of_other_walks():
    """A walk that falls or stops early would be declared done."""
    detour = fine_sample(RING, "RRDD")["messages"][1]["content"]
    assert [entry["text"] for entry in detour if entry["type"] == "text"] == [*"RRDD", "Done!"]
    for moves in ("RD", "R", ""):
        content = fine_sample(RING, moves)["messages"][1]["content"]
        assert [entry["text"] for entry in content if entry["type"] == "text"] == [*moves]


def test_coarse_sample():
    """The plan's picture would not show the whole path, or the answer not be the official form."""
    walk = states(RING, "DDRR")
    user, assistant = coarse_sample(RING)["messages"]
    assert user == {"role": "user", "content": [text(COARSE_PROMPT), image(walk[0])]}
    description = (
        "a 3x3 maze, player at row 1 column 1, goal at row 3 column 3, holes at row 2 column 2"
    )
    assert assistant == {
        "role": "assistant",
        "content": [
            text(f"{description}\nPlan:"),
            image(walk[-1]),
            text("Action plan: D,D,R,R"),
        ],
    }
    assert read_action_plan(assistant["content"][-1]["text"]) == "DDRR"


@pytest.mark.parametrize(
    ("string", "moves"),
    [
        ("Action plan: L,L,R", "LLR"),
        ("Action plan: U", "U"),
        ("The way is clear.\nAction plan: D, R ,U.\nDone", "DRU"),
        ("action plan: d,r<|im_end|>", "DR"),
        ("Action plan: L\nNo: Action plan: R,R", "RR"),
        ("Action plan:", None),
        ("Action plan: Left", None),
        ("Action plan: L,L,Q", None),
        ("Action plan: L then R", None),
        ("L,L,R", None),
        ("", None),
    ],
)
def test_read_action_plan(string, moves):
    """A good plan would be lost, or a broken one cut to a good one."""
    assert read_action_plan(string) == moves


def test_write_jsonl(tmp_path):
    """What is read from disk would differ from what is streamed."""
    written = [fine_sample(RING), coarse_sample(RING)]
    path = write_jsonl(iter(written), tmp_path / "data", draw)
    assert path == tmp_path / "data" / "samples.jsonl"
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(read) == 2
    for sample, again in zip(written, read, strict=True):
        assert again["id"] == sample["id"]
        for message, message_again in zip(sample["messages"], again["messages"], strict=True):
            assert message_again["role"] == message["role"]
            contents = zip(message["content"], message_again["content"], strict=True)
            for entry, entry_again in contents:
                if entry["type"] == "text":
                    assert entry_again == entry
                else:
                    picture = np.asarray(Image.open(tmp_path / "data" / entry_again["image"]))
                    np.testing.assert_array_equal(picture, draw(entry["image"]))
    # the coarse sample's two pictures are the first and the last of the fine one
    assert len(list((tmp_path / "data" / "images").iterdir())) == 5


def test_interrupted_writing_leaves_the_older_list(tmp_path, monkeypatch):
    """A run that dies would leave half a list, half a picture, or spoil what was there."""
    path = write_jsonl([fine_sample(RING)], tmp_path, draw)
    before = path.read_text()
    pictures = {file.name: file.read_bytes() for file in (tmp_path / "images").iterdir()}

    def half(self, file, format):
        file.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write_jsonl([fine_sample(RING, "RRDD")], tmp_path, draw)
    assert path.read_text() == before
    assert {f.name: f.read_bytes() for f in (tmp_path / "images").iterdir()} == pictures
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images", "samples.jsonl"]
