"""The endless stream: no held-out maze ever, every sample fits its row, every index is its own."""

import numpy as np
import pytest

from latentum_jax.config import VisionConfig
from latentum_jax.configs.frozenlake_tiny import get_config
from latentum_jax.data.faults import Faults
from latentum_jax.data.frozenlake import stream
from latentum_jax.data.frozenlake.frames import states
from latentum_jax.data.frozenlake.mazes import Maze, shortest_path, split_of
from latentum_jax.data.frozenlake.stream import (
    MazeRows,
    Mazes,
    corpus,
    question_turns,
    random_state,
)
from latentum_jax.data.interleaved import IGNORE
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.data import open_feed
from latentum_jax.train.recipe import stage_config
from tests.models_on_disk import random_model


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(corpus(count=40), 512)


@pytest.fixture
def drawn(monkeypatch):
    """Every maze that any sample is made of."""
    seen = []
    original = stream.sample_maze

    def spy(*args, **kwargs):
        seen.append(original(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(stream, "sample_maze", spy)
    return seen


@pytest.mark.parametrize("link", ["vlm", "mbaq", "mome", "sft"])
def test_no_stage_of_the_recipe_ever_sees_a_held_out_maze(link, drawn, tokenizer):
    """Breaks if a stage draws from the test split, or the split stops following the grid."""
    model = random_model()
    config = stage_config(get_config(), link)
    for bucket in config.data.buckets:
        bucket["rows_a_batch"] = 8
    feed = open_feed(config, model.config, model.chat, tokenizer, Faults(None, 0))
    for _ in range(12):
        next(feed)
    assert len(drawn) >= 96
    assert {split_of(maze) for maze in drawn} == {"train"}


def test_windows_of_steps_are_kept():
    """Breaks if a long walk lands in a bucket of short rows, where it does not fit."""
    rng = np.random.default_rng(0)
    for least, most in ((1, 4), (5, 7), (8, 11)):
        lengths = [len(shortest_path(Mazes().draw(rng, (least, most)))) for _ in range(2)]
        assert least <= min(lengths) and max(lengths) <= most
    with pytest.raises(ValueError, match="has a shortest path of"):
        Mazes(levels=(3,), weights=(1.0,)).draw(rng, (9, 11))


def test_the_fullest_maze_fits_every_row_of_the_recipe(tokenizer, monkeypatch):
    """Breaks if a maze with very many holes is too long for the rows and stops a training run."""
    # 26 holes. Of 34 cells at most 0.35 are holes on average, 12 with a deviation of 2.8.
    maze = Maze.parse(6, ["SGFFFF", "FFFFHH", *["HHHHHH"] * 4])
    monkeypatch.setattr(Mazes, "draw", lambda self, rng, steps=None: maze)
    rng = np.random.default_rng(0)
    made = MazeRows(tokenizer, VisionConfig.tiny(), "")
    made.questions(rng, 180, as_codes=True)
    long = {"captions": made.caption, "coarse": made.coarse}
    for bucket in stage_config(get_config(), "sft").data.buckets:
        if bucket["kind"] in long:
            row = long[bucket["kind"]](rng, bucket["length"])
            assert row["target_valid"].all()


def test_the_longest_walks_fit_their_rows(tokenizer):
    """Breaks if a walk of a bucket's most steps, n, does not fit: 66 + 39 n tokens."""
    made = MazeRows(tokenizer, VisionConfig.tiny(), "")
    for bucket in stage_config(get_config(), "sft").data.buckets:
        if bucket["kind"] == "fine":
            most = bucket["steps"][1]
            row = made.fine(np.random.default_rng(0), bucket["length"], (most, most))
            assert row["valid"].sum() == 66 + 39 * most


def test_a_walk_that_is_too_long_is_refused(tokenizer, monkeypatch):
    """Breaks if a row is cut: half a plan would be learnt."""
    maze = Maze.parse(6, ["SHFFFH", "FHFHFH", "FHFHFH", "FHFHGH", "FFFHHH", "HHHHHH"])
    assert len(shortest_path(maze)) > 11
    monkeypatch.setattr(Mazes, "draw", lambda self, rng, steps=None: maze)
    made = MazeRows(tokenizer, VisionConfig.tiny(), "")
    with pytest.raises(ValueError, match="at most"):
        made.fine(np.random.default_rng(0), 496, (8, 11))


def test_questions_share_a_row_and_only_answers_are_learnt(tokenizer):
    """Breaks if labels cover a question, or blocks of a row are not numbered apart."""
    rng = np.random.default_rng(0)
    row = MazeRows(tokenizer, VisionConfig.tiny(), "").questions(rng, 180, as_codes=False)
    learnt = row["labels"] != IGNORE
    assert learnt.any() and not learnt[row["block"] == 0].any()
    ends = row["tokens"][learnt] == tokenizer.ids.im_end
    assert ends.sum() == row["block"].max() >= 4


def test_planning_questions_come_as_often_as_stated():
    """Breaks if the shares of the dense questions are lost: 0.5 of 300 is 150 +- 3 x 9."""
    rng = np.random.default_rng(0)
    asked = [
        {question for question, _ in question_turns(rng, random_state(rng, Mazes().draw(rng)))}
        for _ in range(300)
    ]
    dense = sum("Best move from each cell?" in turns for turns in asked)
    assert 123 <= dense <= 177


def test_a_random_state_is_one_that_a_walk_reaches():
    """Breaks if pictures show what no walk makes: a player in a hole, or visited cells apart."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        maze = Mazes().draw(rng)
        state = random_state(rng, maze)
        assert state.player not in maze.holes
        assert state.visited == frozenset() or maze.start in state.visited
    assert states(maze, "")[0].player == maze.start
