"""Prompts to reinforce on: their groups, their order, and what is refused of a user's."""

import json

import chex
import numpy as np
import pytest

from latentum_jax.config import ChatConfig
from latentum_jax.data.faults import Faults
from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import LEVELS, Maze, shortest_path, unique_mazes
from latentum_jax.data.frozenlake.questions import parse_caption
from latentum_jax.data.frozenlake.samples import SHORT_PROMPT
from latentum_jax.images import see
from latentum_jax.rl.feed import letters_of, maze_of, open_prompts
from latentum_jax.rl.rollouts import texts_of
from tests.rl.small_grpo import config_of
from tests.small import SMALL

GOOD = ("a red dog", "two cats", "a dog left of a cat")
CHAT = ChatConfig(system="", fine_prompt=SHORT_PROMPT)


def feed_of(small, config, faults=None):
    return open_prompts(config, SMALL, CHAT, small.tokenizer, faults or Faults(None, 2))


def prompts_of(small, batch):
    return texts_of(batch["tokens"], batch["valid"], small.tokenizer)


def grouped(batch, group):
    """Whether rows stand in groups of equal ones."""
    return all(
        np.array_equal(x[i], x[i - i % group]) for x in batch.values() for i in range(len(x))
    )


def test_captions_of_mazes(small):
    """Breaks if rollouts of a group get other prompts or other questions, or the questions are not
    those of the prompt: size, number of holes, where player and goal are."""
    batch = next(feed_of(small, config_of(data__rows=6, grpo__group=3)))
    assert grouped(batch, 3)
    first, second = prompts_of(small, batch)[::3]
    assert first != second
    for text, right in zip((first, second), batch["ask/correct"][::3], strict=True):
        found = parse_caption(text)
        assert right[0] == found["level"] - 3 and right[1] == len(found["holes"])
        assert right[2:6].tolist() == [*found["player"], *found["goal"]]
    assert batch["ask/tokens"].shape == (6, 700) and batch["codes"].shape[:2] == (6, 1)
    assert batch["target_valid"].all() and (batch["labels"] < 0).all()


def test_questions_go_along_where_they_are_asked(small):
    """Breaks if a run by pixels alone pays for questions, or ends for want of their room."""
    config = config_of(grpo__rewards__self=0.0, grpo__ask__length=1)
    assert not [name for name in next(feed_of(small, config)) if name.startswith("ask/")]


def test_mazes_to_plan(small):
    """Breaks if the picture is of another maze than the rules are asked about, a path is of another
    length than asked, or a prompt lacks its slots."""
    config = config_of(grpo__task="plan", grpo__moves=(2, 3))
    batch = next(feed_of(small, config))
    assert grouped(batch, 2) and set(batch) == {"prompt", "prompt_length", "seen", "maze"}
    mazes = [maze_of(letters) for letters in batch["maze"][::2]]
    assert mazes[0] != mazes[1] and all(2 <= len(shortest_path(maze)) <= 3 for maze in mazes)
    for maze, seen in zip(mazes, batch["seen"][::2], strict=True):
        np.testing.assert_array_equal(seen[0], see(draw(start_state(maze)), SMALL.vision))
    ids, length = small.tokenizer.ids, batch["prompt_length"][0]
    assert (batch["prompt"][0] == ids.img_context).sum() == SMALL.vision.num_tokens
    assert (batch["prompt"][0, length:] == ids.pad).all()
    said = small.tokenizer.decode(batch["prompt"][0, :length].tolist())
    assert SHORT_PROMPT in said


@pytest.mark.parametrize("task", ["draw", "plan"])
def test_it_goes_on_where_it_was(small, task):
    """Breaks if a batch depends on those before it: a resumed run would see other prompts."""
    config = config_of(grpo__task=task)
    feed = feed_of(small, config)
    seen = [next(feed) for _ in range(2)]
    state, late = feed.get_state(), next(feed)
    again = feed_of(small, config)
    chex.assert_trees_all_equal(next(again), seen[0])
    again.set_state(state)
    chex.assert_trees_all_equal(next(again), late)
    given = {"draw": "tokens", "plan": "seen"}[task]
    assert not np.array_equal(seen[0][given], seen[1][given])


def test_another_seed_makes_other_prompts(small):
    """Breaks if all runs see the same."""
    first, second = (next(feed_of(small, config_of(seed=seed))) for seed in (0, 1))
    assert prompts_of(small, first) != prompts_of(small, second)


def written(tmp_path, name, prompts):
    lines = [json.dumps({"prompt": p, "tag": 1}) if name.endswith("l") else p for p in prompts]
    (tmp_path / name).write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / name


def of_file(path, **changes):
    return config_of(data__source="prompts", data__path=str(path), **changes)


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_prompts_of_a_file(small, tmp_path, name):
    """Two a batch: every epoch of three holds each once, in another order. Breaks if a prompt is
    seen more often than another, blank lines are prompts, or an order cannot be put back."""
    config = of_file(written(tmp_path, name, GOOD))
    feed = feed_of(small, config)
    seen, states = [], []
    for _ in range(12):
        states.append(feed.get_state())
        batch = next(feed)
        assert grouped(batch, 2)
        seen += prompts_of(small, batch)[::2]
    epochs = [tuple(seen[i : i + 3]) for i in range(0, 24, 3)]
    assert all(sorted(epoch) == sorted(GOOD) for epoch in epochs) and len(set(epochs)) > 1
    again = feed_of(small, config)
    again.set_state(states[7])
    assert prompts_of(small, next(again))[::2] == seen[14:16]


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_prompts_that_cannot_be_taken_apart(small, tmp_path, name):
    """Breaks if one ends a run, goes unnoticed, or is noted without where and why; blank lines
    count in the numbers of lines."""
    path = written(tmp_path, name, (GOOD[0], "quickly running of the", GOOD[1], "a " * 400 + "dog"))
    faults = Faults(tmp_path / "bad.jsonl", 2)
    feed = feed_of(small, of_file(path), faults)
    assert {*prompts_of(small, next(feed))} == set(GOOD[:2])
    assert faults.seen() == {f"{path}, line 3", f"{path}, line 7"}
    logged = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert "quickly running of the" in logged[0]["reason"] and logged[1]["reason"]
    # A run that goes on knows them already.
    assert len(Faults(tmp_path / "bad.jsonl", 2).seen()) == 2
    with pytest.raises(ValueError, match="2 broken samples, expected at most 1: the last is .*7: "):
        feed_of(small, of_file(path), Faults(None, 1))


def test_lines_of_jsonl_that_are_no_prompts(small, tmp_path):
    """Breaks if a line without a prompt, or no JSON, ends the run or is taken for one."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a red dog"}\n{"text": "two cats"}\nnothing\n{"prompt": 3}\n')
    faults = Faults(None, 3)
    assert {*prompts_of(small, next(feed_of(small, of_file(path), faults)))} == {"a red dog"}
    assert faults.seen() == {f"{path}, line {n}" for n in (2, 3, 4)}


def test_what_is_refused(small, tmp_path):
    """Breaks if a config that cannot train is found out at the first step, or in no sentence."""
    none = written(tmp_path, "none.txt", ("quickly running of the",))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("a caf\xe9 table\n".encode("latin-1"))
    cases = {
        "data.rows is 4, expected a multiple of grpo.group, 3, from 2": {"grpo__group": 3},
        "data.rows is 4, expected a multiple of grpo.group, 1, from 2": {"grpo__group": 1},
        "data.source is 'vqa' and grpo.task 'draw': expected 'frozenlake'": {
            "data__source": "vqa"
        },
        "data.source is 'prompts' and grpo.task 'plan'": {
            "data__source": "prompts", "grpo__task": "plan"
        },
        "missing.txt: there is no such file": {
            "data__source": "prompts", "data__path": str(tmp_path / "missing.txt")
        },
        "missing.jsonl: there is no such file": {
            "data__source": "prompts", "data__path": str(tmp_path / "missing.jsonl")
        },
        "none.txt: of 1 prompts none can be taken apart into questions": {
            "data__source": "prompts", "data__path": str(none)
        },
        "empty.txt: of 0 prompts none can be taken apart": {
            "data__source": "prompts", "data__path": str(empty)
        },
        "latin.txt is not UTF-8": {"data__source": "prompts", "data__path": str(latin)},
    }  # fmt: skip
    for message, changes in cases.items():
        with pytest.raises(ValueError, match=message):
            feed_of(small, config_of(**changes))
    with pytest.raises(ValueError, match=r"a prompt has \d+ tokens, data.length is 8"):
        next(feed_of(small, config_of(grpo__task="plan", data__length=8)))


def test_mazes_as_letters():
    """Breaks if a maze of any size is another one on its way through an array of one shape."""
    for level in LEVELS:
        for maze in unique_mazes(0, level, 3):
            letters = letters_of(maze)
            assert letters.shape == (8, 8) and letters.dtype == np.uint8
            assert maze_of(letters) == maze
    by_hand = letters_of(Maze(("SF", "HG")))
    assert bytes(by_hand[:2, :3].reshape(-1).tolist()) == b"SF HG " and (by_hand[2:] == 32).all()
