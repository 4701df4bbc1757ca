"""Smooth random walks: trajectories of true poses, four a second, that touch nothing."""

import math

import numpy as np
from jaxtyping import Float

from latentum_jax.data.navigation.motion import Pose, compose
from latentum_jax.data.navigation.words import Action
from latentum_jax.data.navigation.world import SIZE, Room, free_share, is_clear

STEP = 0.25  # meters ahead at most
SIDEWAYS = 0.05  # meters at most
PACE = 0.15  # meters ahead that it comes back to
TURN = 30  # degrees at most


def random_pose(rng: np.random.Generator, room: Room) -> Pose:
    """Somewhere an agent may stand, looking anywhere, in whole degrees."""
    while True:
        for x, y in rng.uniform(0, SIZE, (4, 2)).tolist():
            if is_clear(room, x, y):
                return Pose(x, y, math.radians(int(rng.integers(-180, 180))))


def walk(
    rng: np.random.Generator, room: Room, steps: int, start: Pose | None = None
) -> Float[np.ndarray, "T 3"]:
    """The poses before, between and after `steps` steps, T = steps + 1.

    Each is an action in whole centimeters and whole degrees, which the words can say exactly. Pace
    and turn change little from one step to the next; before an obstacle the agent stands and turns.
    """
    pose = start or random_pose(rng, room)
    pace, turn = rng.uniform(0, STEP), rng.normal(0, 12)
    poses = [pose]
    for faster, aside, turning in (rng.normal(size=(steps, 3)) * (0.05, 0.015, 8)).tolist():
        pace = min(max(0.8 * pace + 0.2 * PACE + faster, 0.0), STEP)
        turn = min(max(0.75 * turn + turning, -TURN), TURN)
        aside = min(max(aside, -SIDEWAYS), SIDEWAYS) * (pace > 0)
        after = compose(pose, Action(round(pace, 2), round(aside, 2), round(turn)))
        if free_share(room, pose.x, pose.y, after.x - pose.x, after.y - pose.y) < 1:
            pace, turn = 0.0, math.copysign(TURN, turn)
            after = compose(pose, Action(0, 0, round(turn)))
        poses.append(pose := after)
    return np.array(poses)
