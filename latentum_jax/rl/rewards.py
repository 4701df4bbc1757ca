"""Rewards of rollouts (section 3.3) by pixels and by a maze's rules, and sums of rewards; what the
model itself thinks of them is in `rl.self_reward`.

Each gives fp32 [R], one number a rollout. What a user's function returns is checked before
anything is learnt from it.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float, UInt8

from latentum_jax.data.frozenlake.frames import states
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.files import module_at

Rewards = Float[np.ndarray, " R"]
# (prompts, images) -> a number a picture
PixelReward = Callable[[Sequence[str], UInt8[np.ndarray, "R H W 3"]], Sequence[float]]


def pixel_rewards(
    function: PixelReward, prompts: Sequence[str], images: UInt8[np.ndarray, "R H W 3"]
) -> Rewards:
    """What a function of the user's thinks of decoded pictures.

    Raises ValueError where there are not as many prompts as pictures, or see `checked`.
    """
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts of {len(images)} images, expected as many")
    name = getattr(function, "__name__", type(function).__name__)
    return checked(name, function(prompts, images), len(images))


def maze_rewards(mazes: Sequence[Maze], moves: Sequence[str]) -> Rewards:
    """1 where the moves of a plan reach the goal by the simulator's rules, else 0.

    The first fall or arrival decides. Raises ValueError where there are not as many plans as mazes,
    or a move is none of L D R U.
    """
    if len(moves) != len(mazes):
        raise ValueError(f"{len(moves)} plans for {len(mazes)} mazes, expected as many")
    ends = [states(maze, plan)[-1] for maze, plan in zip(mazes, moves, strict=True)]
    return np.array([end.reached for end in ends], np.float32)


def weighted_sum(
    rewards: Mapping[str, Float[Array, " R"]], weights: Mapping[str, float]
) -> Float[Array, " R"]:
    """The sum of rewards, each times its weight. Raises ValueError where one has no weight."""
    if missing := sorted(set(rewards) - set(weights)):
        raise ValueError(f"weights of {sorted(weights)}, expected one of {missing[0]!r} too")
    return sum(weights[name] * values for name, values in rewards.items())


def checked(name: str, values: object, count: int) -> Rewards:
    """What the reward `name` returned for `count` rollouts.

    Raises ValueError unless it is `count` finite numbers.
    """
    try:
        found = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the reward {name} returned {values!r}, expected {count} numbers"
        ) from error
    if found.shape != (count,):
        shape = list(found.shape)
        raise ValueError(f"the reward {name} returned an array {shape}, expected [{count}]")
    if not np.isfinite(found).all():
        first = int(np.argmin(np.isfinite(found)))
        raise ValueError(
            f"the reward {name} returned {found[first]} for rollout {first} of {count}, "
            "expected finite numbers"
        )
    return found


def load_pixel_reward(given: str | PixelReward) -> PixelReward:
    """A function, or where one is: "module:function" or "path/to/file.py:function".

    Raises ValueError where there is no such module, file or function.
    """
    if callable(given):
        return given
    where, colon, name = given.rpartition(":")
    if not (where and colon and name):
        raise ValueError(f"a reward is given as module:function, got {given!r}")
    if where.endswith(".py"):
        module = module_at(where, "reward")
    else:
        try:
            module = importlib.import_module(where)
        except Exception as error:  # whatever a user's module may raise
            raise ValueError(f"the reward {given} cannot be imported: {error!r}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{where} has no function {name!r}, which {given!r} names")
    return function
