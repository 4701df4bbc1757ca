"""Questions of captions, against the states that the captions were written of."""

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import advance, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.data.frozenlake.questions import ask, caption
from latentum_jax.rl.maze import maze_questions

# By hand: holes at (1, 2), (2, 2), (3, 1) counted from 1; the player has gone down once.
STATE = advance(start_state(Maze(("SHF", "FHF", "HFG"))), "D")
CAPTION = caption(STATE)
WITHOUT = "a 3x3 maze, player at row 1 column 1, goal at row 3 column 3, no holes"


def answer(question):
    return question.prefix + question.options[question.correct]


def test_the_maze_its_player_and_its_goal():
    """Row and column apart: each question's right option completes the answer so far."""
    found = [(q.kind, q.text, answer(q), len(q.options)) for q in maze_questions(CAPTION)[:6]]
    assert found == [
        ("size", "How big is the maze?", "3x3", 6),
        ("holes", "How many holes?", "3", 10),
        ("player_row", "Where is the player?", "row 2", 3),
        ("player_column", "Where is the player?", "row 2 column 1", 3),
        ("goal_row", "Where is the goal?", "row 3", 3),
        ("goal_column", "Where is the goal?", "row 3 column 3", 3),
    ]


def test_every_hole_and_as_many_other_cells():
    """Without the others a picture full of holes would be right, without the holes an empty one.

    Neither the goal nor the player's cell, whose ground the caption does not tell.
    """
    found = [(q.text, answer(q)) for q in maze_questions(CAPTION)[6:]]
    assert found[:3] == [
        ("What is at row 1 column 2?", "hole"),
        ("What is at row 2 column 2?", "hole"),
        ("What is at row 3 column 1?", "hole"),
    ]
    free = ["row 1 column 1", "row 1 column 3", "row 2 column 3", "row 3 column 2"]
    assert len(set(found[3:])) == 3
    assert set(found[3:]) <= {(f"What is at {cell}?", "ice") for cell in free}


def test_the_words_are_those_a_model_was_trained_on():
    """A question in other words is answered by chance."""
    rng = np.random.default_rng(0)
    kinds = ("size", "holes", "player", "goal", "cell")
    asked = [ask(kind, STATE, rng) for kind in kinds for _ in range(99)]
    trained = {(turn.question, turn.answer) for turn in asked}
    start = ("What is at row 1 column 1?", "ice")  # the start, for all that the caption says
    whole = {(q.text, answer(q)) for q in maze_questions(CAPTION) if not q.kind.endswith("_row")}
    assert whole - {start} <= trained


def test_which_cells_is_up_to_the_seed():
    """Rollouts of one caption are compared by the same questions; another seed asks others."""
    assert maze_questions(CAPTION) == maze_questions(CAPTION)
    seeds = [maze_questions(CAPTION, np.random.default_rng(seed)) for seed in range(9)]
    assert len(set(seeds)) > 1


@pytest.mark.parametrize("most, cells", [(24, 6), (4, 4), (2, 2), (0, 0)])
def test_no_more_than_asked_for(most, cells):
    """A reward of too many questions does not fit its rows."""
    assert len(maze_questions(CAPTION, most=most)) == 6 + cells


def test_a_maze_without_holes():
    """Nothing would be asked of its ground, and holes drawn there cost nothing."""
    assert [answer(q) for q in maze_questions(WITHOUT)[6:]] == ["ice", "ice"]


def test_ten_holes_are_not_counted():
    """ "10" begins like "1" for a tokenizer of single digits."""
    cells = [divmod(i, 4) for i in range(10)]
    holes = ", ".join(f"row {row + 1} column {column + 1}" for row, column in cells)
    text = f"a 4x4 maze, player at row 4 column 1, goal at row 4 column 4, holes at {holes}"
    kinds = [q.kind for q in maze_questions(text)]
    assert "holes" not in kinds and kinds.count("hole") == 10 and kinds.count("ice") == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("a photo of a dog", "'a photo of a dog' is no caption of a maze"),
        (WITHOUT.replace("row 1", "row 4"), "row 4 column 1 outside a maze of level 3"),
        (WITHOUT.replace("3x3", "9x9"), "is of level 9, expected one from 3 to 8"),
    ],
)
def test_what_is_no_caption(text, message):
    """It would ask about nothing, or about cells that no picture shows."""
    with pytest.raises(ValueError, match=message):
        maze_questions(text)
