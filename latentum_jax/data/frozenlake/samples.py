"""Interleaved samples of FrozenLake in the published message format (LatentUM, section 3.3).

In memory an image entry holds the `State` that it shows: see `latentum_jax.data.messages`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentum_jax.data.frozenlake.frames import State, states
from latentum_jax.data.frozenlake.mazes import MOVES, Maze, shortest_path
from latentum_jax.data.frozenlake.questions import DONE, caption
from latentum_jax.data.messages import Sample, conversation, image, text

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


def fine_sample(maze: Maze, moves: str | None = None, prompt: str = PROMPT) -> Sample:
    """One move and one picture a step: "R", image, "D", image, ..., "Done!".

    `moves` default to the shortest path. "Done!" is said of walks that reach the goal alone.
    """
    moves = shortest_path(maze) if moves is None else moves
    walk = states(maze, moves)
    answer = [
        entry
        for move, state in zip(moves, walk[1:], strict=True)
        for entry in (text(move), image(state))
    ]
    answer += [text(DONE)] * walk[-1].reached
    return _sample(f"fine-{_name(maze)}-{moves}", prompt, walk[0], answer)


def coarse_sample(maze: Maze, prompt: str = COARSE_PROMPT) -> Sample:
    """A description, one picture of the whole shortest path walked, and the list of moves."""
    moves = shortest_path(maze)
    walk = states(maze, moves)
    answer = [
        text(f"{caption(walk[0])}\nPlan:"),
        image(walk[-1]),
        text(f"Action plan: {','.join(moves)}"),
    ]
    return _sample(f"coarse-{_name(maze)}", prompt, walk[0], answer)


def read_steps(steps: Sequence[str]) -> str:
    """The moves of a fine plan, such as "RRD": one for each step whose text is one letter of
    L D R U; the first other text ends it."""
    moves = ""
    for step in steps:
        if step not in MOVES:
            break
        moves += step
    return moves


def read_action_plan(text: str) -> str | None:
    """The moves of the last "Action plan: L,L,R" in a text, here "LLR"; None where there is none.

    A list with anything but L D R U in it is no plan; small letters and spaces are forgiven.
    """
    plans = _ACTION_PLAN.findall(text)
    return re.sub(r"[^LDRU]", "", plans[-1].upper()) if plans else None


def _sample(name: str, prompt: str, start: State, answer: list[dict]) -> Sample:
    return conversation(name, [text(prompt), image(start)], answer)


def _name(maze: Maze) -> str:
    return f"frozenlake-level{maze.level}-{maze.flat}"
