"""Interleaved samples of FrozenLake in the published message format (LatentUM, section 3.3).

In memory an image entry holds the `State` that it shows, `{"type": "image", "image": State}`, and
whoever consumes the sample draws it: nothing needs to touch a disk. `write_jsonl` draws them all,
after which the entry holds the picture's path relative to the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from latentum_jax.data.frozenlake.frames import State, draw, states
from latentum_jax.data.frozenlake.mazes import MOVES, Maze, shortest_path
from latentum_jax.data.frozenlake.questions import DONE, caption
from latentum_jax.files import whole

PROMPT = """\
You are navigating a grid-based frozen lake maze. \
Your goal is to move step by step from the starting position to the goal while avoiding holes.

Rules:
- You can move one square at a time: U (up), D (down), L (left), R (right).
- Falling into a hole means failure. Reaching the goal means success.

Task:
Look at the initial maze state below. Solve the maze by outputting one move at a time. \
After each move, visualize the resulting maze state as an image. \
When you reach the goal, output "Done!" to finish.

Here is the initial maze state: """
SHORT_PROMPT = "Solve the maze one move at a time, drawing each state."
COARSE_PROMPT = "Describe the maze, draw the plan, then answer."

_ACTION_PLAN = re.compile(  # one line: moves and commas, and no further word after them
    r"action plan: *([LDRU](?: *, *[LDRU])*)(?! *,? *\w)", re.IGNORECASE
)

Sample = dict[str, Any]


def fine_sample(maze: Maze, moves: str | None = None, prompt: str = PROMPT) -> Sample:
    """One move and one picture a step: "R", image, "D", image, ..., "Done!".

    `moves` default to the shortest path. "Done!" is said of walks that reach the goal alone.
    """
    moves = shortest_path(maze) if moves is None else moves
    walk = states(maze, moves)
    answer = [
        entry
        for move, state in zip(moves, walk[1:], strict=True)
        for entry in (_text(move), _image(state))
    ]
    answer += [_text(DONE)] * walk[-1].reached
    return _sample(f"fine-{_name(maze)}-{moves}", prompt, walk[0], answer)


def coarse_sample(maze: Maze, prompt: str = COARSE_PROMPT) -> Sample:
    """A description, one picture of the whole shortest path walked, and the list of moves."""
    moves = shortest_path(maze)
    walk = states(maze, moves)
    answer = [
        _text(f"{caption(walk[0])}\nPlan:"),
        _image(walk[-1]),
        _text(f"Action plan: {','.join(moves)}"),
    ]
    return _sample(f"coarse-{_name(maze)}", prompt, walk[0], answer)


def read_steps(steps: Sequence[str]) -> str:
    """The moves of a fine plan, such as "RRD": one for each step whose text is one letter of
    L D R U; the first other text ends it."""
    moves = ""
    for text in steps:
        if text not in MOVES:
            break
        moves += text
    return moves


def read_action_plan(text: str) -> str | None:
    """The moves of the last "Action plan: L,L,R" in a text, here "LLR"; None where there is none.

    A list with anything but L D R U in it is no plan; small letters and spaces are forgiven.
    """
    plans = _ACTION_PLAN.findall(text)
    return re.sub(r"[^LDRU]", "", plans[-1].upper()) if plans else None


def write_jsonl(samples: Iterable[Sample], folder: str | os.PathLike[str]) -> Path:
    """Writes samples.jsonl and images/*.png under `folder`; returns the path of samples.jsonl.

    Each file appears whole or not at all, and samples.jsonl last. Pictures are named after their
    pixels, so equal ones are stored once and writing into a folder again never changes a picture
    that an older list names.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_on_disk(sample, folder), ensure_ascii=False) + "\n" for sample in samples]
    path = folder / "samples.jsonl"
    with whole(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")
    return path


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(state: State) -> dict[str, Any]:
    return {"type": "image", "image": state}


def _sample(name: str, prompt: str, start: State, answer: list[dict[str, Any]]) -> Sample:
    user = {"role": "user", "content": [_text(prompt), _image(start)]}
    return {"id": name, "messages": [user, {"role": "assistant", "content": answer}]}


def _name(maze: Maze) -> str:
    return f"frozenlake-level{maze.level}-{maze.flat}"


def _on_disk(sample: Sample, folder: Path) -> Sample:
    """The sample with its pictures written and named by path."""
    messages = [
        {**message, "content": [_entry_on_disk(entry, folder) for entry in message["content"]]}
        for message in sample["messages"]
    ]
    return {**sample, "messages": messages}


def _entry_on_disk(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    if entry["type"] != "image":
        return entry
    picture = draw(entry["image"])
    relative = f"images/{hashlib.sha256(picture.tobytes()).hexdigest()[:24]}.png"
    if not (folder / relative).exists():
        with whole(folder / relative) as unfinished:
            Image.fromarray(picture).save(unfinished, format="PNG")
    return {"type": "image", "image": relative}
