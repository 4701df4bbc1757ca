"""A config's data, from every kind of source, on disk as their users have them."""

import io
import json
import tarfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from latentum_jax.config import ChatConfig
from latentum_jax.configs.base import base
from latentum_jax.data.faults import Faults
from latentum_jax.train.data import open_feed, open_pictures
from tests.small import DECODER, SMALL

COUNT = 6


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same pictures as shards, as questions, as interleaved samples, and as files."""
    path = tmp_path_factory.mktemp("data")
    asked, told = [], []
    with tarfile.open(path / "0.tar", "w") as tar:
        for i in range(COUNT):
            name = f"{i}.png"
            (path / name).write_bytes(picture(i))
            for member, data in ((name, picture(i)), (f"{i}.txt", b"up" * (1 + i))):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            said = [("human", "<image>\nup?"), ("gpt", "down")]
            turns = [{"from": who, "value": text} for who, text in said]
            asked.append({"id": i, "image": name, "conversations": turns})
            user = [{"type": "image", "image": name}, {"type": "text", "text": "up?"}]
            answer = [{"type": "text", "text": "left"}, {"type": "image", "image": name}]
            messages = [("user", user), ("assistant", answer)]
            told.append(
                {"id": i, "messages": [{"role": role, "content": c} for role, c in messages]}
            )
    (path / "asked.json").write_text(json.dumps(asked))
    (path / "told.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return path


def config_of(source, path, **data) -> ConfigDict:
    config = base(SMALL, DECODER)
    config.data.update({"source": source, "path": str(path), "rows": 2, "length": 64})
    config.data.update({"images": 2, "targets": 1, "threads": 1, "max_bad": 0} | data)
    return config


def feed_of(small, source, path, **data):
    config = config_of(source, path, **data)
    return open_feed(config, SMALL, ChatConfig(system=""), small.tokenizer, Faults(None, 0))


@pytest.mark.parametrize(
    ("source", "file", "drawn"),
    [("webdataset", "0.tar", 1), ("vqa", "asked.json", 0), ("jsonl", "told.jsonl", 1)],
)
def test_every_source_makes_rows(small, folder, source, file, drawn):
    """Breaks if a source's samples do not become what the stages train on."""
    feed = feed_of(small, source, folder / file, root=str(folder))
    batch = next(feed)
    assert batch["tokens"].shape == (2, 64) and batch["pixels"].shape == (2, 2, 28, 28, 3)
    assert batch["target_valid"].sum() == 2 * drawn and batch["valid"].any(axis=1).all()
    assert (batch["labels"] >= 0).any() == (source != "webdataset")
    seen = {int(n) for _ in range(COUNT // 2) for n in batch["pixels"][:, 0].sum((1, 2, 3))}
    assert len(seen) == 2
    feed.close()


def test_packed_rows_hold_several(small, folder):
    """Breaks if `packed` is not heard, or holds more than the row has room for."""
    feed = feed_of(small, "webdataset", folder / "0.tar", packed=True, images=3, targets=3)
    batch = next(feed)
    assert batch["target_valid"].sum(axis=1).tolist() == [3, 3]
    assert batch["base"].max() == 2
    feed.close()


@pytest.mark.parametrize(("source", "path"), [("images", ""), ("webdataset", "0.tar")])
def test_pictures_for_a_decoder(folder, source, path):
    """Breaks if a decoder sees other pictures than it draws."""
    config = config_of(source, folder / path)
    feed = open_pictures(config, SMALL.vision, DECODER, Faults(None, 0))
    batch = next(feed)
    assert batch["pixels"].shape == (2, 32, 32, 3) and batch["seen"].shape == (2, 28, 28, 3)
    means = batch["pixels"].mean((1, 2, 3)) - batch["seen"].mean((1, 2, 3))
    assert np.abs(means).max() < 3
    feed.close()


@pytest.mark.parametrize(
    ("source", "path", "said"),
    [
        ("webdataset", "none/*.tar", "there are no tar shards"),
        ("vqa", "none.json", "there is no such file"),
        ("jsonl", "none.jsonl", "there is no such file"),
        ("nothing", "", "data.source is 'nothing', expected one of"),
    ],
)
def test_what_is_missing_is_named(small, folder, source, path, said):
    """Breaks if a run finds out at its first step."""
    with pytest.raises(ValueError, match=said):
        feed_of(small, source, folder / path)
