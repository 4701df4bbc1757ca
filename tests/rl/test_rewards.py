"""Rewards: what each gives, and what is refused of those that a user brings."""

import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.data.frozenlake.frames import simulate
from latentum_jax.data.frozenlake.mazes import Maze, shortest_path, unique_mazes
from latentum_jax.rl.rewards import (
    checked,
    load_pixel_reward,
    maze_rewards,
    pixel_rewards,
    weighted_sum,
)

IMAGES = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
PROMPTS = ["a dog", "a cat", "two cows"]


def brightness(prompts, images):
    """A user's reward."""
    return [
        float(image.mean()) + len(prompt) for prompt, image in zip(prompts, images, strict=True)
    ]


def test_pixels():
    """By hand: the means of 0..11, 12..23, 24..35 are 5.5, 17.5, 29.5; prompts of 5, 5, 8."""
    rewards = pixel_rewards(brightness, PROMPTS, IMAGES)
    np.testing.assert_array_equal(rewards, np.float32([10.5, 22.5, 37.5]))
    with pytest.raises(ValueError, match="2 prompts of 3 images, expected as many"):
        pixel_rewards(brightness, PROMPTS[:2], IMAGES)


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0, np.nan, np.inf], "the reward mine returned nan for rollout 1 of 3, expected finite"),
        ([1.0, 2.0, -np.inf], "the reward mine returned -inf for rollout 2 of 3"),
        ([1.0, 2.0], r"the reward mine returned an array \[2\], expected \[3\]"),
        (1.0, r"the reward mine returned an array \[\], expected \[3\]"),
        (np.ones((3, 1)), r"the reward mine returned an array \[3, 1\], expected \[3\]"),
        (None, r"the reward mine returned an array \[\], expected \[3\]"),
        (["good", "bad", "ugly"], r"the reward mine returned \['good'.*expected 3 numbers"),
    ],
)
def test_what_a_reward_may_not_return(values, message):
    """NaN would become the weights of the model, another length be spread over all rollouts."""
    with pytest.raises(ValueError, match=message):
        checked("mine", values, 3)


def test_the_name_of_a_user_s_reward_is_said():
    """With several rewards one has to know which it was."""
    with pytest.raises(ValueError, match="the reward too_few returned"):

        def too_few(prompts, images):
            return [1.0]

        pixel_rewards(too_few, PROMPTS, IMAGES)


def test_mazes_against_the_simulator():
    """gymnasium decides whether the moves arrive: shortest paths, cut ones, falls, detours."""
    mazes = [maze for level in (3, 4, 6) for maze in unique_mazes(0, level, 4)]
    rng = np.random.default_rng(0)
    wild = ["".join(rng.choice(list("LDRU"), 12)) for _ in mazes]
    paths = [shortest_path(maze) for maze in mazes]
    plans = [*paths, *(path[:-1] for path in paths), *(f"{path}LLUU" for path in paths), *wild]
    rewards = maze_rewards(mazes * 4, plans)
    simulated = [simulate(maze, plan) for maze, plan in zip(mazes * 4, plans, strict=True)]
    np.testing.assert_array_equal(rewards, np.float32(simulated))
    assert rewards[:12].all() and not rewards[12:24].any() and rewards[24:36].all()


def test_a_fall_decides():
    """By hand: R is a hole, and what comes behind it does not count; of no moves nothing comes."""
    maze = Maze(("SHG", "FFF", "FFF"))
    assert maze_rewards([maze] * 3, ["RR", "DRRU", ""]).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="2 plans for 1 mazes, expected as many"):
        maze_rewards([maze], ["R", "D"])
    with pytest.raises(ValueError, match="A move is one of L D R U, got 'x'"):
        maze_rewards([maze], ["Dx"])


def test_weighted_sum():
    """By hand: 2 * [1, 0] + 0.5 * [3, 4] = [3.5, 2]."""
    rewards = {"self": jnp.array([1.0, 0.0]), "pixel": jnp.array([3.0, 4.0])}
    found = weighted_sum(rewards, {"pixel": 0.5, "self": 2.0, "maze": 1.0})
    assert found.tolist() == [3.5, 2.0]
    with pytest.raises(ValueError, match=r"weights of \['self'\], expected one of 'pixel' too"):
        weighted_sum(rewards, {"self": 1.0})


def test_functions_by_name(tmp_path, monkeypatch):
    """A module that can be imported, a file, and a function as it is."""
    (tmp_path / "my_rewards.py").write_text(
        "def ones(prompts, images):\n  return [1] * len(images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for given in ("my_rewards:ones", f"{tmp_path}/my_rewards.py:ones"):
        found = pixel_rewards(load_pixel_reward(given), PROMPTS, IMAGES)
        np.testing.assert_array_equal(found, np.ones(3, np.float32))
    assert load_pixel_reward(brightness) is brightness


@pytest.mark.parametrize(
    "given, message",
    [
        ("my_rewards", "a reward is given as module:function, got 'my_rewards'"),
        (":ones", "a reward is given as module:function, got ':ones'"),
        ("no_such_module_here:ones", "cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:ones", "there is no reward file nowhere.py"),
        ("math:no_such", "math has no function 'no_such'"),
        ("math:pi", "math has no function 'pi'"),
    ],
)
def test_functions_that_are_not_there(given, message):
    """Found out at the first step, after rollouts, it would cost minutes."""
    with pytest.raises(ValueError, match=message):
        load_pixel_reward(given)
