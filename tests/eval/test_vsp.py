"""The benchmark, with models whose plans are known."""

import dataclasses
import json
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import start_state
from latentum_jax.data.frozenlake.mazes import MOVES, Maze, split_of, step
from latentum_jax.eval import vsp
from latentum_jax.eval.runs import run_in
from latentum_jax.pretrained import STEP_TEXT, Plan
from tests.fake_model import FakeModel
from tests.models_on_disk import CONTEXT
from tests.small import SMALL


def into_a_hole(maze):
    """The shortest way into a hole; "" where none can be reached."""
    queue, seen = deque([(maze.start, "")]), {maze.start}
    while queue:
        cell, moves = queue.popleft()
        for move in MOVES:
            after = step(maze, cell, move)
            if after in maze.holes:
                return moves + move
            if after not in seen and after != maze.goal:
                seen.add(after)
                queue.append((after, moves + move))
    return ""


def knowing(mazes, **options):
    return FakeModel([start_state(maze) for maze in mazes], **options)


def plan_of(*steps):
    return Plan("<img></img>".join(steps), steps, np.zeros((len(steps) - 1, 1, 1), np.int32), True)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson(successes, n, low, high):
    """A published interval would be too wide or too narrow, or leave 0 to 1 (numbers by hand)."""
    assert vsp.wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "moves"),
    [
        (("R", "D", "Done!"), "RD"),
        (("R", "D"), "RD"),  # the step limit came after the second move was said
        (("R", "go down", "D"), "R"),
        (("R", "RD", "D"), "R"),
        (("R", "", "D"), "R"),
        (("r", "D"), ""),
        (("Done!",), ""),
    ],
)
def test_moves_of_a_fine_plan(steps, moves):
    """A move would be made up, or one made after the plan had already broken off."""
    assert vsp.read_moves(plan_of(*steps), "fine") == moves


def test_moves_of_a_coarse_plan():
    """The list would be read from the description, or a plan without one would fail."""
    assert vsp.read_moves(plan_of("A maze.\nPlan:", "Action plan: L,D,R"), "coarse") == "LDR"
    assert vsp.read_moves(plan_of("A maze.\nPlan:", "no idea"), "coarse") == ""


def test_held_out_mazes_are_of_the_test_split():
    """Mazes that were trained on would be counted as held out."""
    mazes = vsp.held_out((3, 5), 6, seed=1)
    assert [maze.level for maze in mazes] == [3] * 6 + [5] * 6
    assert {split_of(maze) for maze in mazes} == {"test"}


@pytest.mark.parametrize("mode", ["fine", "coarse"])
def test_perfect_plans(mode, tmp_path):
    """results.json would have another layout, or a solved maze would count as lost."""
    mazes, out = vsp.held_out((3, 4), 3, seed=0), tmp_path / "out"
    with run_in(out, {"checkpoint": "fake"}) as run:
        returned = vsp.evaluate(knowing(mazes), mazes, mode, run)
    results = json.loads((out / "results.json").read_text())
    assert returned == results
    level = {"n": 3, "success": 1.0, "ci95": list(vsp.wilson(3, 3))}
    imagined = results.pop("imagined", None)
    assert results == {
        "checkpoint": "fake",
        "mode": mode,
        "levels": {"3": level, "4": level},
        "mean": 1.0,
    }
    lines = [json.loads(line) for line in (out / "items.jsonl").open()]
    assert [tuple(line["grid"]) for line in lines] == [maze.grid for maze in mazes]
    steps = sum(len(line["moves"]) for line in lines)
    perfect = {"steps": steps, "own_answer": 1.0, "nearest_frame": 1.0}
    assert imagined == (perfect if mode == "fine" else None)
    assert "100.0%" in vsp.table(returned) and "100.0%" in (out / "table.md").read_text()


def test_a_run_goes_on_where_it_was_cut(monkeypatch, tmp_path):
    """Breaks if a maze is planned twice, or what is kept of a plan is not what it was: the images
    of those planned before the cut are judged after it."""
    monkeypatch.setattr(vsp, "BATCH", 2)
    mazes = vsp.held_out((3, 4), 3, seed=0)
    with run_in(tmp_path / "whole", {}) as run:
        whole = vsp.evaluate(knowing(mazes), mazes, "fine", run)
    model, plan = knowing(mazes), FakeModel.plan

    def cut(*args, **options):
        if len(model.calls) == 2:
            raise KeyboardInterrupt
        return plan(model, *args, **options)

    model.plan = cut
    with pytest.raises(KeyboardInterrupt), run_in(tmp_path / "cut", {}) as run:
        vsp.evaluate(model, mazes, "fine", run)
    del model.plan  # the same model: its codes are numbers of the pictures that it has seen
    with run_in(tmp_path / "cut", {}) as run:
        assert len(run.done) == 3
        assert vsp.evaluate(model, mazes, "fine", run) == whole
    assert [kind for kind, _, _ in model.calls] == ["fine"] * 4 + ["describe"]


def test_plans_into_holes(tmp_path):
    """A walk that ends in a hole would count as solved."""
    mazes = [maze for maze in vsp.held_out((4,), 12, seed=0) if into_a_hole(maze)]
    model = knowing(mazes, route=into_a_hole)
    with run_in(tmp_path, {}) as run:
        results = vsp.evaluate(model, mazes, "fine", run)
    assert results["mean"] == 0.0
    assert results["levels"]["4"]["ci95"][0] == 0.0
    assert results["imagined"]["nearest_frame"] == 1.0


def test_wrong_imagination_is_seen(tmp_path):
    """States imagined a move too late would count as right, as the moves themselves are."""
    mazes = vsp.held_out((4,), 3, seed=0)
    with run_in(tmp_path, {}) as run:
        results = vsp.evaluate(knowing(mazes, late=True), mazes, "fine", run)
    assert results["mean"] == 1.0
    assert results["imagined"]["own_answer"] == results["imagined"]["nearest_frame"] == 0.0


def test_batches_have_one_shape_and_lose_no_maze(monkeypatch):
    """A program would be compiled for the last batch alone, or its filling would be counted."""
    monkeypatch.setattr(vsp, "BATCH", 4)
    mazes = vsp.held_out((3,), 6, seed=0)
    model = knowing(mazes)
    attempts = vsp.solve(model, mazes, "fine")
    assert [attempt.maze for attempt in attempts] == mazes
    assert [size for _, size, _ in model.calls] == [4, 4]


def test_mazes_of_mixed_levels_keep_their_order():
    """Lines of items.jsonl would not be those of the user's file."""
    mazes = vsp.held_out((3, 4), 2, seed=0)[::-1]
    assert [a.maze for a in vsp.solve(knowing(mazes), mazes, "coarse")] == mazes


def test_step_limit():
    """A plan would be cut off before the goal, or overflow the context."""
    snake = Maze(("SFFF", "HHHF", "FFFF", "GHHH"))  # 9 steps, published mazes of level 4 take 8
    model = knowing([snake])
    assert vsp.step_limit(model, vsp.held_out((3,), 1, 0)) == 7
    assert vsp.step_limit(model, [snake]) == 10
    wide = Maze(("SFFFFFFG",) + ("FFFFFFFF",) * 7)
    assert vsp.step_limit(model, [wide]) == 17
    # a step is its text, <img>, the visual tokens and </img>
    used = 4 * (STEP_TEXT + 1 + SMALL.vision.num_tokens + 1)
    long = SimpleNamespace(encode=lambda text: (0,) * (CONTEXT - used))
    model.prompter = dataclasses.replace(model.prompter, tokenizer=long)
    assert vsp.step_limit(model, [wide]) == 4
