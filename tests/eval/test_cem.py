"""The cross-entropy method on costs whose answer is known, and paths by hand."""

import math

import numpy as np
import pytest

from latentum_jax.data.navigation.motion import Pose, compose
from latentum_jax.data.navigation.words import Action, action_text
from latentum_jax.eval.cem import CEM, SMALL_WORLD, path_of, search


def end(path):
    pose = Pose(0.0, 0.0, 0.0)
    for action in path:
        pose = compose(pose, action)
    return pose


def test_paths_by_hand():
    """A line towards (0.3, 0.4): 0.5 m a step at atan2(0.4, 0.3) = 53.13 degrees; after 3 steps it
    is at (0.9, 1.2), and has turned by the 10 degrees that come last. An arc turns in each step."""
    line = path_of((0.3, 0.4, 10.0), 3, "line")
    assert line[0].dx == 0.3 and line[0].dy == 0.4 and line[1].dy == 0.0
    at = end(line)
    np.testing.assert_allclose(at, (0.9, 1.2, math.radians(53.13010235 + 10)), atol=1e-8)
    assert path_of((0.1, 0.0, 30.0), 2, "arc") == (Action(0.1, 0.0, 30.0),) * 2
    # 0.1 m ahead, 30 degrees to the left, 0.1 m ahead: (0.1 + 0.1 cos 30, 0.1 sin 30).
    at = end(path_of((0.1, 0.0, 30.0), 2, "arc"))
    np.testing.assert_allclose(at, (0.1 + 0.0866025404, 0.05, math.radians(60)), atol=1e-8)
    assert path_of((0.2, 0.0, 5.0), 1, "line") == (Action(0.2, 0.0, 5.0),)


@pytest.mark.parametrize(("path", "turned"), [("line", 0.0), ("arc", 60.0)])
def test_it_finds_the_way(path, turned):
    """Breaks if elites are the worst, candidates and their costs change places, or rounds do not
    begin where the last one ended. Noisy rollouts are averaged by `repeats`."""
    goal, rng = end(path_of((0.2, 0.05, turned / 6), 6, path)), np.random.default_rng(1)
    asked = []

    def cost(paths):
        asked.append(len(paths))
        ends = np.array([end(p)[:2] for p in paths])
        return np.linalg.norm(ends - goal[:2], axis=1) + 0.01 * rng.random(len(paths))

    settings = CEM(60, 8, 5, 2, 6, mean=(0.1, 0.0, 0.0), std=(0.1, 0.1, 8.0), path=path)
    found = search(cost, settings, np.random.default_rng(0))
    assert asked == [120] * 5 and len(found.actions) == 6
    assert np.linalg.norm(np.array(end(found.actions)[:2]) - goal[:2]) < 0.05
    assert found.costs[-1] < found.costs[0]
    again = search(cost, settings, np.random.default_rng(0))
    assert len(again.costs) == 5


def test_whole_candidates_are_said_in_words_that_walks_use():
    """Breaks if the small world's model is asked about 7.38 degrees: it was told of whole ones, and
    what it imagines of others is of no use to a planner."""
    asked = []
    cost = lambda paths: asked.extend(paths) or np.zeros(len(paths))  # noqa: E731
    search(cost, SMALL_WORLD, np.random.default_rng(0))
    assert len(asked) == 80 and len({path[0] for path in asked}) > 60
    for action in {path[0] for path in asked}:
        centimeters = np.array([100 * action.dx, 100 * action.dy, action.dyaw])
        np.testing.assert_allclose(centimeters, np.round(centimeters), atol=1e-9)
        assert action_text(action).endswith(f"rotating by {round(action.dyaw)} degrees")


def test_the_published_distribution():
    """By hand, of dx from -2.5 to 5 waypoints of 0.25 m: -0.1 is -2.5 + 7.5 * 0.45 = 0.875
    waypoints, 0.21875 m; a spread of 0.02 is 0.01 * 7.5 * 0.25 = 0.01875 m. Of dy from -4 to 4, 0.1
    is 0.05 * 8 * 0.25 = 0.1 m. Of half a turn 0.1 is 18 degrees."""
    assert (CEM().mean, CEM().std) == ((0.21875, 0.0, 0.0), (0.01875, 0.1, 18.0))


def test_bad_input_is_refused_in_one_sentence():
    """Breaks if a judge's NaN sends the search anywhere, or a search without elites begins."""
    for make, message in [
        (lambda: CEM(samples=4, elites=5), "5 elites of 4 samples"),
        (lambda: CEM(repeats=0), "one iteration, repeat and step"),
        (lambda: CEM(path="curve"), "path is 'curve'"),
        (
            lambda: search(lambda p: np.full(len(p), np.nan), CEM(), np.random.default_rng(0)),
            "0 of",
        ),
        (lambda: search(lambda p: np.zeros(3), CEM(), np.random.default_rng(0)), "expected 360"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            make()
        assert "\n" not in str(refused.value)
