"""Planning by the cross-entropy method: actions whose imagined end is nearest to a goal.

A candidate is one (dx, dy, dyaw), in meters and degrees, made into a whole path. The protocol and
its figures are those of navigation world models (NWM) on RECON, which LatentUM follows (section 4).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from latentum_jax.data.navigation.words import Action

_WHOLE = np.array([0.01, 0.01, 1.0])  # meters, meters, degrees
Cost = Callable[[Sequence[Sequence[Action]]], Float[np.ndarray, "N"]]


@dataclasses.dataclass(frozen=True)
class CEM:
    """How to search: `samples` candidates, of which `elites` make the next distribution.

    mean, std: of the first distribution. Those of RECON are (-0.1, 0, 0) and (0.02, 0.1, 0.1) in
      units in which dx from -2.5 to 5, and dy from -4 to 4, waypoints of 0.25 m are -1 to 1, and
      dyaw of half a turn is 1: hence 0.25 (7.5 (1 - 0.1) / 2 - 2.5) = 0.21875 m, and so on.
    repeats: rollouts of each candidate, whose costs are averaged.
    path: "line", as published, goes straight towards (dx, dy) in steps of its length, looks where
      it goes, and turns by dyaw in the end; "arc" repeats the whole action in the agent's own axes.
    whole: candidates are of whole centimeters and degrees, which is all that a model knows the
      words of whose walks are.
    """

    samples: int = 120
    elites: int = 5
    iterations: int = 1
    repeats: int = 3
    steps: int = 8
    mean: tuple[float, float, float] = (0.21875, 0.0, 0.0)
    std: tuple[float, float, float] = (0.01875, 0.1, 18.0)
    path: Literal["line", "arc"] = "line"
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 < self.elites <= self.samples:
            raise ValueError(
                f"{self.elites} elites of {self.samples} samples, expected from 2 to all of them"
            )
        if min(self.iterations, self.repeats, self.steps) < 1:
            raise ValueError(f"{self}: expected one iteration, repeat and step at least")
        if self.path not in ("line", "arc"):
            raise ValueError(f"path is {self.path!r}, expected 'line' or 'arc'")


# Of the small world's walks, whose pace comes back to 0.15 m, and which may turn all the way round.
SMALL_WORLD = CEM(
    40, 6, 2, 1, mean=(0.14, 0.0, 0.0), std=(0.06, 0.02, 10.0), path="arc", whole=True
)


@dataclasses.dataclass(frozen=True)
class Planned:
    """The path of the last elites' mean, and the least cost of each iteration's candidates."""

    actions: tuple[Action, ...]
    costs: tuple[float, ...]


def search(cost: Cost, settings: CEM, rng: np.random.Generator) -> Planned:
    """The cross-entropy method.

    Args:
      cost: of paths, all of a round at once, `repeats` of each candidate one behind another.

    Raises:
      ValueError: a cost that is not finite, or not one for each path.
    """
    mean, std = np.asarray(settings.mean), np.asarray(settings.std)
    costs = []
    for _ in range(settings.iterations):
        drawn = mean + std * rng.standard_normal((settings.samples, 3))
        if settings.whole:
            drawn = np.round(drawn / _WHOLE) * _WHOLE
        paths = [path_of(row, settings.steps, settings.path) for row in drawn.tolist()]
        found = np.asarray(cost([path for path in paths for _ in range(settings.repeats)]))
        if found.shape != (len(paths) * settings.repeats,) or not np.isfinite(found).all():
            raise ValueError(
                f"costs are {list(found.shape)} numbers, {np.isfinite(found).sum()} of them "
                f"finite, expected {len(paths) * settings.repeats}"
            )
        averaged = found.reshape(len(paths), -1).mean(axis=1)
        best = np.argsort(averaged, kind="stable")[: settings.elites]
        mean, std = drawn[best].mean(axis=0), drawn[best].std(axis=0, ddof=1)
        costs.append(float(averaged[best[0]]))
    return Planned(path_of(mean.tolist(), settings.steps, settings.path), tuple(costs))


def path_of(sample: Sequence[float], steps: int, path: str) -> tuple[Action, ...]:
    """A candidate as actions, each in the agent's own axes at its start (see `CEM`)."""
    dx, dy, dyaw = sample
    if path == "arc":
        return (Action(dx, dy, dyaw),) * steps
    facing, step = math.degrees(math.atan2(dy, dx)), math.hypot(dx, dy)
    first = Action(dx, dy, facing)
    whole = [first, *[Action(step, 0.0, 0.0)] * (steps - 1)]
    whole[-1] = dataclasses.replace(whole[-1], dyaw=whole[-1].dyaw + dyaw)
    return tuple(whole)
