"""The VSP FrozenLake benchmark: mazes solved from their picture (section 4.3, Appendix C).

A maze counts as solved when the moves of the model's plan reach the goal in gymnasium's simulator;
the path need not be the shortest.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from latentum_jax.data.frozenlake.frames import draw, simulate, start_state
from latentum_jax.data.frozenlake.mazes import (
    LONGEST_PATH,
    Maze,
    shortest_path,
    unique_mazes,
)
from latentum_jax.data.frozenlake.samples import read_action_plan, read_steps
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.imagined import score_images
from latentum_jax.eval.runs import Run
from latentum_jax.pretrained import LatentUM, Plan

BATCH = 25
Z95 = 1.959964  # two-sided 95% of the normal distribution

Mode = Literal["fine", "coarse"]


@dataclass(frozen=True)
class Attempt:
    """A maze, the model's plan for it, and the moves read from that plan, such as "RRD"."""

    maze: Maze
    plan: Plan
    moves: str

    @property
    def success(self) -> bool:
        """Whether the moves reach the goal in the simulator."""
        return simulate(self.maze, self.moves)


def held_out(levels: Iterable[int], num: int, seed: int) -> list[Maze]:
    """`num` mazes a level that no training ever sees, in the published distribution."""
    return [maze for level in levels for maze in unique_mazes(seed, level, num, "test")]


def evaluate(
    model: LatentUM,
    mazes: Sequence[Maze],
    mode: Mode,
    run: Run,
    *,
    unreadable: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Solves the mazes, one at least, that the run has not finished; what its `finish` wrote.

    Under "levels" there is, for each, the number of mazes, the share solved and its Wilson 95%
    interval; "mean" is the unweighted mean over levels. Fine plans also get "imagined", see
    `score_images`. "unreadable" names files of a published folder that are no mazes, and why.
    """
    attempts = solve(model, mazes, mode, run)
    levels = by_level([a.maze.level for a in attempts], [a.success for a in attempts])
    mean = sum(level["success"] for level in levels.values()) / len(levels)
    results = {"mode": mode, "levels": levels, "mean": mean}
    if mode == "fine":
        walks = [(attempt.maze, attempt.moves, attempt.plan.codes) for attempt in attempts]
        results["imagined"] = score_images(model, walks)
    if unreadable:
        results["unreadable"] = dict(unreadable)
    return run.finish(results, f"```\n{table(results)}\n```\n")


def solve(
    model: LatentUM, mazes: Sequence[Maze], mode: Mode, run: Run | None = None
) -> list[Attempt]:
    """The model's plan for each maze, in the order of the mazes; those that a `run` has finished
    are not planned again."""
    done = {} if run is None else run.done
    attempts = {int(key): _kept(item, mazes[int(key)]) for key, item in done.items()}
    with tqdm(total=len(mazes), initial=len(attempts), desc=f"{mode} plans", unit="maze") as bar:
        for level in sorted({maze.level for maze in mazes}):
            alike = [i for i, maze in enumerate(mazes) if maze.level == level]
            limit = step_limit(model, [mazes[i] for i in alike])
            todo = [i for i in alike if i not in attempts]
            for batch, real in padded_batches(todo, min(BATCH, len(alike))):
                plans = _plan(model, [mazes[i] for i in batch], mode, limit)
                pairs = list(zip(batch, plans, strict=True))[:real]
                new = {i: Attempt(mazes[i], plan, read_moves(plan, mode)) for i, plan in pairs}
                if run is not None:
                    run.add(_item(i, attempt) for i, attempt in new.items())
                attempts |= new
                bar.update(real)
    return [attempts[i] for i in range(len(mazes))]


def step_limit(model: LatentUM, mazes: Sequence[Maze]) -> int:
    """One more step than the longest path of the level takes, or what fits in the context."""
    longest = max(max(LONGEST_PATH[m.level], len(shortest_path(m))) for m in mazes)
    return max(1, min(longest + 1, model.steps_that_fit()))


def read_moves(plan: Plan, mode: Mode) -> str:
    """The moves of a plan, such as "RRD".

    A fine plan makes a move with each step (`samples.read_steps`). A coarse plan lists its moves
    after "Action plan:"; where it does not, it makes none.
    """
    if mode == "coarse":
        return read_action_plan(plan.text) or ""
    return read_steps(plan.steps)


def by_level(levels: Sequence[int], solved: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """For each level its number of mazes, the share solved and its Wilson 95% interval."""
    found: dict[str, dict[str, Any]] = {}
    for level in sorted(set(levels)):
        outcomes = [ok for at, ok in zip(levels, solved, strict=True) if at == level]
        n, good = len(outcomes), sum(outcomes)
        found[str(level)] = {"n": n, "success": good / n, "ci95": list(wilson(good, n))}
    return found


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval of a share, 95%."""
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    lines = [f"{'level':>6}{'mazes':>7}{'success':>9}   95% interval"]
    for level, found in results["levels"].items():
        low, high = found["ci95"]
        lines.append(f"{level:>6}{found['n']:>7}{found['success']:>9.1%}   {low:.1%} to {high:.1%}")
    lines.append(f"{'mean':>6}{'':>7}{results['mean']:>9.1%}")
    if imagined := results.get("imagined"):
        lines.append(
            f"of {imagined['steps']} imagined states, player right by its own answer "
            f"{imagined['own_answer']:.1%}, by the nearest frame {imagined['nearest_frame']:.1%}"
        )
    if unreadable := results.get("unreadable"):
        name, reason = next(iter(unreadable.items()))
        lines.append(f"{len(unreadable)} files are no mazes; the first, {name}: {reason}")
    return "\n".join(lines)


def _plan(model: LatentUM, mazes: Sequence[Maze], mode: Mode, limit: int) -> list[Plan]:
    pictures = [draw(start_state(maze)) for maze in mazes]
    if mode == "fine":
        return model.plan(pictures, mode=mode, max_steps=limit)
    return model.plan(pictures, mode=mode)


def _item(number: int, attempt: Attempt) -> dict[str, Any]:
    """What a run keeps of a maze."""
    plan = attempt.plan
    return {
        "key": str(number),
        "level": attempt.maze.level,
        "grid": list(attempt.maze.grid),
        "moves": attempt.moves,
        "success": attempt.success,
        "text": plan.text,
        "steps": list(plan.steps),
        "finished": plan.finished,
        "codes": plan.codes.tolist(),
        "shape": list(plan.codes.shape),  # of no images, too
    }


def _kept(item: Mapping[str, Any], maze: Maze) -> Attempt:
    """The attempt that `_item` was made of."""
    codes = np.array(item["codes"], np.int32).reshape(item["shape"])
    plan = Plan(item["text"], tuple(item["steps"]), codes, item["finished"])
    return Attempt(maze, plan, item["moves"])
