"""Rows of the world: no held-out room ever, every row fits, disk and memory agree."""

import re
import threading

import chex
import numpy as np
import pytest

from latentum_jax.config import ChatConfig, DecoderConfig, MMDiTConfig
from latentum_jax.configs import nav_tiny, nav_tiny_decoder
from latentum_jax.data.faults import BadSample, Faults
from latentum_jax.data.interleaved import IGNORE, InterleavedLines, RowShape, interleaved_row
from latentum_jax.data.messages import write_jsonl
from latentum_jax.data.navigation import stream
from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.recon import POSES, Trajectories, write_trajectory
from latentum_jax.data.navigation.samples import world_sample
from latentum_jax.data.navigation.stream import NavigationRows, train_tokenizer
from latentum_jax.data.navigation.walks import walk
from latentum_jax.data.navigation.words import Action, prompt
from latentum_jax.data.navigation.world import draw_all, random_room
from latentum_jax.prompter import Prompter
from latentum_jax.tokenizer import user_turn
from latentum_jax.train.data import jsonl_row, open_feed, open_pictures, world_row
from latentum_jax.train.recipe import load_config, stage_config

MODEL, CHAT = nav_tiny.nav_model(), ChatConfig(system="")
SHAPE = RowShape(288, 5, 1, MODEL.vision)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(MODEL.language.vocab_size)


@pytest.fixture(scope="module")
def walked():
    """A room, the poses of a walk in it, and what was seen."""
    rng = np.random.default_rng(5)
    room = random_room(rng)
    poses = walk(rng, room, 6)
    return room, poses, draw_all(room, poses)


@pytest.fixture
def rooms(monkeypatch):
    """Every room that any row is made of."""
    seen, original = [], stream.random_room
    monkeypatch.setattr(
        stream, "random_room", lambda *args: seen.append(original(*args)) or seen[-1]
    )
    return seen


def test_a_tokenizer_says_what_the_model_has_ids_for(tokenizer):
    """Breaks if a published phrase falls into pieces, a number does, or text is not kept."""
    assert len(tokenizer) == MODEL.language.vocab_size
    for phrase in stream.phrases():
        assert len(tokenizer.encode(phrase)) == 1
    for number in range(58):
        assert len(tokenizer.encode(f"red {number}")) == 2
    text = prompt(["Action(0.13, -0.05, -12)"] * 4).replace("<image>", "<img>")
    assert tokenizer.decode(tokenizer.encode(text), keep_special=True) == text


@pytest.mark.parametrize("link", ["vlm", "mbaq", "mome", "sft", "world"])
def test_no_stage_of_the_recipe_ever_sees_a_held_out_room(link, rooms, tokenizer):
    """Breaks if a stage draws from the test split, or its rows do not fit their shapes."""
    config = stage_config(nav_tiny.get_config(), link)
    for bucket in config.data.buckets:
        bucket["rows_a_batch"] = 8
    feed = open_feed(config, MODEL, CHAT, tokenizer, Faults(None, 0))
    for _ in range(6):
        next(feed)
    assert len(rooms) >= 48 and {room.split for room in rooms} == {"train"}


def test_workers_make_the_same_batches(tokenizer):
    """Breaks if what makes batches cannot be sent to a process, or the mesh would go along."""
    held = threading.Lock()  # cannot be sent, like the devices of a mesh
    here = lambda rows: slice(0, rows // 2 + held.locked())  # noqa: E731
    config = stage_config(nav_tiny.get_config(), "sft")
    for bucket in config.data.buckets:
        bucket["rows_a_batch"] = 2
    feeds = []
    for workers in (0, 1):
        config.data.workers = workers
        feeds.append(open_feed(config, MODEL, CHAT, tokenizer, Faults(None, 0), here))
    for _ in range(4):
        one, other = map(next, feeds)
        assert len(one["tokens"]) == 1
        chex.assert_trees_all_equal(one, other)
    for feed in feeds:
        feed.close()


def test_the_longest_rows_fit(tokenizer):
    """Breaks if a long walk's numbers or a crowded view stop a training run."""
    rows = NavigationRows(tokenizer, MODEL.vision, "", stride=3)
    rng = np.random.default_rng(0)
    assert max(rows.world(rng, 352, 8)["valid"].sum() for _ in range(50)) > 300
    captions = [rows.caption(rng, 64)["valid"].sum() for _ in range(200)]
    assert max(captions) > 40


def test_a_row_is_what_is_asked_at_inference(tokenizer, walked):
    """Breaks if a model is trained on other tokens than `predict` gives it: of every future the
    tokens of block 0 and of its own question, and its `<img>` right behind them."""
    _, poses, pictures = walked
    row = NavigationRows(tokenizer, MODEL.vision, "").world(np.random.default_rng(0), 384, 3)
    assert row["pixels"].shape == (7, 96, 96, 3) and row["target_valid"].all()
    assert row["target_slot"].tolist() == [4, 5, 6] and row["target_block"].tolist() == [1, 2, 3]
    assert (row["labels"] == IGNORE).all() and row["as_codes"][4:].all()
    prompter = Prompter(MODEL, CHAT, tokenizer)
    said = {}
    for future in (1, 2, 3):
        mine = row["valid"] & ((row["block"] == 0) | (row["block"] == future))
        text = tokenizer.decode(row["tokens"][mine].tolist(), keep_special=True)
        said[future] = re.findall(r"move (\S+) meters.*?and (\S+) meters.*?by (\S+) degrees", text)
        actions = [Action(*map(float, numbers)) for numbers in said[future]]
        assert len(actions) == 4
        expected = prompter.tokens(user_turn(prompt(actions), ""), [1] * 4)
        assert row["tokens"][mine].tolist() == list(expected)
        assert row["target_position"][future - 1] == len(expected)
    assert said[1][:3] == said[2][:3] and len({tuple(told[3]) for told in said.values()}) > 1
    sample = world_sample(pictures[:5], poses[:5], "")
    texts = [e["text"] for e in sample["messages"][0]["content"] if e["type"] == "text"]
    assert "<image>".join(texts) == prompt(actions_between(poses[:5]))  # the published words


def test_half_of_the_rows_remember_what_was_drawn(tokenizer):
    """Breaks if a latent rollout's windows never come up: the last one to four shown as codes."""
    rows, rng = NavigationRows(tokenizer, MODEL.vision, ""), np.random.default_rng(1)
    shown = [rows.world(rng, 320, 1)["as_codes"][:4].tolist() for _ in range(60)]
    assert all(flags == sorted(flags) for flags in shown)
    assert {sum(flags) for flags in shown} == {0, 1, 2, 3, 4}
    assert 15 < sum(not any(flags) for flags in shown) < 45


def test_rows_from_disk_are_those_from_memory(tmp_path, tokenizer, walked):
    """Breaks if RECON's folder or the JSONL says another action or shows another frame."""
    room, poses, pictures = walked
    samples = [world_sample(pictures[i : i + 5], poses[i : i + 5], str(i)) for i in range(3)]
    memory = [
        interleaved_row(sample, tokenizer, SHAPE, system="", draw=lambda x: x) for sample in samples
    ]
    write_trajectory(tmp_path / "recon" / "0", pictures, poses, suffix=".png")
    windows = Trajectories(tmp_path / "recon", size=5)
    lines = InterleavedLines(write_jsonl(samples, tmp_path / "lines", lambda picture: picture))
    assert len(windows) == len(lines) == 3
    for i, row in enumerate(memory):
        chex.assert_trees_all_equal(row, world_row(windows, i, tokenizer, SHAPE, ""))
        chex.assert_trees_all_equal(row, jsonl_row(lines, i, tokenizer, SHAPE, ""))


def test_world_model_trains_on_a_recon_folder(tmp_path, tokenizer, walked):
    """Breaks if the recipe needs a JSONL, or one broken trajectory of many ends a run."""
    room, poses, pictures = walked
    for name in ("a", "b", "c"):
        write_trajectory(tmp_path / name, pictures, poses)
    (tmp_path / "b" / POSES).unlink()
    (tmp_path / "c" / "2.jpg").write_bytes(b"half a picture")
    overrides = {"data.path": str(tmp_path), "data.rows": "4", "data.threads": "1"}
    config = load_config("world_model", overrides)
    assert config.data.source == "recon"
    config.data.length = 288
    faults = Faults(None, 10)
    feed = open_feed(config, MODEL, CHAT, tokenizer, faults)
    batches = [next(feed) for _ in range(3)]
    feed.close()
    assert batches[0]["pixels"].shape == (4, 5, 96, 96, 3)
    where = {str(tmp_path / "b"), *(str(tmp_path / "c" / f"{i}.jpg") for i in (4, 5, 6))}
    assert str(tmp_path / "b") in faults.seen() and faults.seen() <= where
    with pytest.raises(BadSample, match="image .*2.jpg: not an image"):
        world_row(Trajectories(tmp_path, size=5), 4, tokenizer, SHAPE, "")
    config.data.path = str(tmp_path / "none")
    with pytest.raises(ValueError, match="there is no such folder"):
        open_feed(config, MODEL, CHAT, tokenizer, faults)


def test_a_kind_of_row_that_there_is_not(tokenizer):
    """Breaks if a maze's bucket is asked of the world without a word."""
    config = stage_config(nav_tiny.get_config(), "vlm")
    config.data.buckets = ({**config.data.buckets[0], "kind": "fine"},)
    with pytest.raises(ValueError, match="kind is 'fine', expected one of \\('world'"):
        open_feed(config, MODEL, CHAT, tokenizer, Faults(None, 0))


def test_pictures_for_a_decoder(tmp_path, rooms, walked):
    """Breaks if a decoder is shown other references than the walk's first frames, as they are."""
    config = stage_config(nav_tiny_decoder.get_config(), "pixel_decoder")
    decoder = DecoderConfig.from_dict(config.decoder.to_dict())
    config.data.rows = 4
    batch = next(open_pictures(config, MODEL.vision, decoder, Faults(None, 0)))
    assert batch["references"].shape == (4, 4, 96, 96, 3)
    np.testing.assert_array_equal(batch["pixels"], batch["seen"])
    assert {room.split for room in rooms} == {"train"}
    room, poses, pictures = walked
    write_trajectory(tmp_path / "a", pictures[:5], poses[:5], suffix=".png")
    config.data.update({"source": "recon", "path": str(tmp_path), "rows": 1, "threads": 1})
    feed = open_pictures(config, MODEL.vision, decoder, Faults(None, 0))
    batch = next(feed)
    feed.close()
    np.testing.assert_array_equal(batch["references"][0], pictures[:4])
    np.testing.assert_array_equal(batch["pixels"][0], pictures[4])


def test_a_decoder_without_references_sees_single_frames(rooms):
    """Breaks if a row has references that a decoder does not take."""
    config = stage_config(nav_tiny_decoder.get_config(), "vae")
    config.data.rows = 2
    plain = DecoderConfig(MMDiTConfig.tiny(), image_size=96)
    batch = next(open_pictures(config, MODEL.vision, plain, Faults(None, 0)))
    assert set(batch) == {"seen", "pixels"} and batch["pixels"].shape == (2, 96, 96, 3)
