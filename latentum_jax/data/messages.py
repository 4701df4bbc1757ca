"""Interleaved samples in the published message format, in memory and on disk (section 3.3).

In memory an image entry may hold whatever its picture is drawn from,
`{"type": "image", "image": State}`, and whoever consumes the sample draws it: no disk is needed.
`write_jsonl` draws them all, after which the entry holds the picture's path relative to the folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentum_jax.files import whole

Sample = dict[str, Any]
Entry = dict[str, Any]
Draw = Callable[[Any], np.ndarray]  # of an image entry's value: uint8 [H W 3]


def text(text: str) -> Entry:
    """An entry of words."""
    return {"type": "text", "text": text}


def image(image: Any) -> Entry:
    """An entry of a picture, or of what it is drawn from."""
    return {"type": "image", "image": image}


def conversation(name: str, user: list[Entry], assistant: list[Entry]) -> Sample:
    """A sample of one user and one assistant message."""
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"id": name, "messages": messages}


def write_jsonl(samples: Iterable[Sample], folder: str | os.PathLike[str], draw: Draw) -> Path:
    """Writes samples.jsonl and images/*.png under `folder`; returns the path of samples.jsonl.

    Each file appears whole or not at all, and samples.jsonl last. Pictures are named after their
    pixels, so equal ones are stored once and writing into a folder again never changes a picture
    that an older list names.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_on_disk(s, folder, draw), ensure_ascii=False) + "\n" for s in samples]
    path = folder / "samples.jsonl"
    with whole(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")
    return path


def _on_disk(sample: Sample, folder: Path, draw: Draw) -> Sample:
    """The sample with its pictures written and named by path."""
    messages = [
        {
            **message,
            "content": [_entry_on_disk(entry, folder, draw) for entry in message["content"]],
        }
        for message in sample["messages"]
    ]
    return {**sample, "messages": messages}


def _entry_on_disk(entry: Entry, folder: Path, draw: Draw) -> Entry:
    if entry["type"] != "image":
        return entry
    picture = draw(entry["image"])
    relative = f"images/{hashlib.sha256(picture.tobytes()).hexdigest()[:24]}.png"
    if not (folder / relative).exists():
        with whole(folder / relative) as unfinished:
            Image.fromarray(picture).save(unfinished, format="PNG")
    return image(relative)
