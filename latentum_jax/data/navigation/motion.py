"""Poses in the plane and the actions between them: SE(2).

A pose is (x, y, yaw): meters, and radians counterclockwise from the x axis. An action says a motion
in the agent's own axes at its start, X ahead and Y to the left.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latentum_jax.data.navigation.words import Action

DECIMALS = 6  # that actions between poses are told to, so that whole numbers stay whole


class Pose(NamedTuple):
    """Where an agent stands, in meters, and where it looks, in radians."""

    x: float
    y: float
    yaw: float


def wrapped(yaw: float | np.ndarray) -> float | np.ndarray:
    """Angles brought to [-pi, pi)."""
    return (yaw + math.pi) % (2 * math.pi) - math.pi


def compose(pose: Pose, action: Action) -> Pose:
    """The pose after an action that nothing stops; its yaw is in [-pi, pi)."""
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    return Pose(
        pose.x + cos * action.dx - sin * action.dy,
        pose.y + sin * action.dx + cos * action.dy,
        wrapped(pose.yaw + math.radians(action.dyaw)),
    )


def relative(poses: Float[np.ndarray, "T 3"], delta: int = 1) -> Float[np.ndarray, "R 3"]:
    """Pose i + delta seen from pose i, R = T - delta: meters ahead, to the left, radians turned."""
    before, after = poses[:-delta], poses[delta:]
    step, yaw = after[:, :2] - before[:, :2], before[:, 2]
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead = cos * step[:, 0] + sin * step[:, 1]
    left = cos * step[:, 1] - sin * step[:, 0]
    return np.stack([ahead, left, wrapped(after[:, 2] - yaw)], axis=1)


def actions_between(poses: Float[np.ndarray, "T 3"]) -> list[Action]:
    """The T - 1 actions that lead from each pose to the next, to a micrometer."""
    found = relative(poses)
    found[:, 2] = np.degrees(found[:, 2])
    return [Action(*row) for row in (np.round(found, DECIMALS) + 0.0).tolist()]
