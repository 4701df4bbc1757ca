"""Questions and captions, against answers worked out by hand."""

from collections import Counter

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import start_state, states
from latentum_jax.data.frozenlake.mazes import LEVELS, Maze, sample_maze
from latentum_jax.data.frozenlake.questions import (
    KINDS,
    ask,
    caption,
    parse_caption,
    parse_cell,
    parse_map,
)

# F S H     steps to the goal  5 6 .     best moves  D L .
# F H G                        4 . 0                 D . G
# F F F                        3 2 1                 R R U
MAZE = Maze(("FSH", "FHG", "FFF"))
START = start_state(MAZE)
BOTTOM = states(MAZE, "LDDR")[-1]  # on (2, 1), two steps before the goal
TOP_LEFT = states(MAZE, "L")[-1]  # on (0, 0)
BELOW_GOAL = states(MAZE, "LDDRR")[-1]
REACHED = states(MAZE, "LDDRRU")[-1]
FELL = states(MAZE, "D")[-1]


def answer(kind, state, seed=0):
    return ask(kind, state, np.random.default_rng(seed)).answer


def asked(kind, state, seeds=400):
    """How often each question comes with each answer."""
    drawn = [ask(kind, state, np.random.default_rng(seed)) for seed in range(seeds)]
    assert {question.kind for question in drawn} == {kind}
    return Counter((question.question, question.answer) for question in drawn)


@pytest.mark.parametrize(
    ("kind", "question", "expected"),
    [
        ("map", "Draw the map.", "F P H\nF H G\nF F F"),
        ("moves", "Best move from each cell?", "D L H\nD H G\nR R U"),
        ("distances", "Steps to the goal from each cell?", "5 6 X\n4 X 0\n3 2 1"),
        ("player", "Where is the player?", "row 1 column 2"),
        ("goal", "Where is the goal?", "row 2 column 3"),
        ("holes", "How many holes?", "2"),
        ("size", "How big is the maze?", "3x3"),
        ("next", "What is the best next move?", "L"),
        ("remaining", "How many steps to the goal?", "6"),
        ("reached", "Is the goal reached?", "no"),
        ("path", "Shortest path?", "L,D,D,R,R,U"),
        (
            "describe",
            "Describe the maze.",
            "a 3x3 maze, player at row 1 column 2, goal at row 2 column 3, "
            "holes at row 1 column 3, row 2 column 2",
        ),
    ],
)
def test_answers_at_the_start(kind, question, expected):
    """A question or its answer would not be what the picture shows."""
    assert asked(kind, START, seeds=3) == {(question, expected): 3}


def test_answers_follow_the_player():
    """Answers would be those of the start after the player has moved."""
    assert answer("map", BOTTOM) == "F S H\nF H G\nF P F"
    assert answer("player", BOTTOM) == "row 3 column 2"
    assert answer("next", BOTTOM) == "R"
    assert answer("remaining", BOTTOM) == "2"
    assert answer("path", BOTTOM) == "R,U"


def test_answers_at_the_goal():
    """A walk that is over would be told to go on."""
    assert answer("map", REACHED) == "F S H\nF H P\nF F F"
    assert answer("next", REACHED) == answer("path", REACHED) == "Done!"
    assert answer("remaining", REACHED) == "0"
    assert answer("reached", REACHED) == "yes"
    assert answer("describe", REACHED).endswith(", goal reached")


def test_answers_in_a_hole():
    """A player who fell would crash the data loader or be given a way out."""
    assert answer("map", FELL) == "F S H\nF P G\nF F F"
    assert [answer(kind, FELL) for kind in ("next", "remaining", "path")] == ["X"] * 3
    assert answer("reached", FELL) == "no"
    for kind in KINDS:
        assert answer(kind, FELL)


def test_cut_off_ice_has_no_move_and_no_distance():
    """Ice that no path joins to the goal would get a number or a move."""
    state = start_state(Maze(("SGH", "HHF", "HHF")))
    assert answer("moves", state) == "R G H\nH H X\nH H X"
    assert answer("distances", state) == "1 0 X\nX X X\nX X X"


def test_cell_names_the_ground_of_every_cell():
    """Cells would be counted from 0, rows taken for columns, or a sort of ground left out."""
    drawn = asked("cell", START)
    names = {"F": "ice", "H": "hole", "S": "start", "G": "goal"}
    assert set(drawn) == {
        (f"What is at row {r + 1} column {c + 1}?", names[MAZE.grid[r][c]])
        for r in range(3)
        for c in range(3)
    }
    by_answer = Counter(text for _, text in drawn.elements())
    assert min(by_answer.values()) > 70  # 100 expected of each


def test_is_hole_is_balanced_and_true():
    """A model could score well by always saying no."""
    drawn = asked("is_hole", START)
    holes = {"Is row 1 column 3 a hole?", "Is row 2 column 2 a hole?"}
    assert {question for question, text in drawn if text == "yes"} == holes
    assert len(drawn) == 9
    assert 160 < sum(n for (_, text), n in drawn.items() if text == "yes") < 240
    dry = start_state(Maze(("SFF", "FFF", "FFG")))
    assert {text for _, text in asked("is_hole", dry, seeds=20)} == {"no"}


@pytest.mark.parametrize(
    ("state", "around"),
    [
        (START, {"left of": "ice", "below": "hole", "right of": "hole", "above": "wall"}),
        (BOTTOM, {"left of": "ice", "below": "wall", "right of": "ice", "above": "hole"}),
        (TOP_LEFT, {"left of": "wall", "below": "ice", "right of": "start", "above": "wall"}),
        (BELOW_GOAL, {"left of": "ice", "below": "wall", "right of": "wall", "above": "goal"}),
    ],
)
def test_beside(state, around):
    """Directions would be mixed up, or the edge of the maze taken for ice."""
    expected = {(f"What is {where} the player?", what) for where, what in around.items()}
    assert set(asked("beside", state, seeds=60)) == expected


def test_safe_is_balanced_and_true():
    """A hole would be called safe, or a wall (which keeps the player in place) unsafe."""
    drawn = asked("safe", START)
    assert set(drawn) == {
        ("Is moving left safe?", "yes"),
        ("Is moving down safe?", "no"),
        ("Is moving right safe?", "no"),
        ("Is moving up safe?", "yes"),
    }
    assert 160 < sum(n for (_, text), n in drawn.items() if text == "yes") < 240


def test_leads():
    """A move would lead through a wall or the wrong way."""
    assert set(asked("leads", START, seeds=60)) == {
        ("Where does moving left lead?", "row 1 column 1"),
        ("Where does moving down lead?", "row 2 column 2"),
        ("Where does moving right lead?", "row 1 column 3"),
        ("Where does moving up lead?", "row 1 column 2"),
    }


def test_every_kind_can_be_asked_and_no_other():
    """A kind would be listed without being answered; a misspelt one would say nothing useful."""
    assert len(KINDS) == len(set(KINDS)) == 17
    for kind in KINDS:
        assert answer(kind, START, seed=5)
    with pytest.raises(ValueError, match="one of map, moves.*got 'mpa'"):
        ask("mpa", START, np.random.default_rng(0))


@pytest.mark.parametrize("level", LEVELS)
def test_captions_and_maps_read_back(level):
    """Scoring would read other mazes than the model was taught to write."""
    rng = np.random.default_rng(level)
    for _ in range(20):
        maze = sample_maze(rng, level)
        for state in states(maze, rng.choice(list("LDRU"), size=4)):
            assert parse_caption(caption(state)) == {
                "level": level,
                "player": state.player,
                "goal": maze.goal,
                "holes": frozenset(maze.holes),
            }
            assert parse_cell(answer("player", state)) == state.player
            rows = [list(row) for row in maze.grid]
            rows[state.player[0]][state.player[1]] = "P"
            assert parse_map(answer("map", state)) == rows


def test_caption_without_holes():
    """A maze without holes would have an empty list that cannot be read back."""
    text = caption(states(Maze(("SGF", "FFF", "FFF")), "R")[-1])
    assert text == (
        "a 3x3 maze, player at row 1 column 2, goal at row 1 column 2, no holes, goal reached"
    )
    assert parse_caption(text)["holes"] == frozenset()


def test_other_texts_do_not_read():
    """What an untrained model writes would be scored as an answer, or crash the scoring."""
    good = caption(START)
    for text in ("", "a maze", good[:-5], good + ", row", good.replace("3x3", "3x4"), "x" + good):
        assert parse_caption(text) is None
    for text in ("", "F F\nF", "F F F\nF F F", "\n"):
        assert parse_map(text) is None
    for text in ("", "row 2", "row two column 3", "row 1 column 2 3", "column 1 row 2"):
        assert parse_cell(text) is None
    assert parse_cell(" row 2 column 3\n") == (1, 2)
