"""Errors of trajectories whose answers are found by hand."""

import math

import numpy as np
import pytest

from latentum_jax.data.navigation.motion import Pose, compose
from latentum_jax.data.navigation.words import Action
from latentum_jax.eval.trajectory import aligned, ate, rpe


def walked(*actions, start=(0.0, 0.0, 0.0)):
    """The poses that actions lead through."""
    poses = [Pose(*start)]
    for action in actions:
        poses.append(compose(poses[-1], Action(*action)))
    return np.array(poses)


STRAIGHT = walked(*[(1, 0, 0)] * 4)  # (0, 0), (1, 0), ..., (4, 0), looking east
BENT = walked((1, 0, 30), (0.5, 0.2, -70), (0.7, 0, 10), (0.2, 0.1, 160))


def test_a_constant_offset_is_all_of_ate_and_nothing_of_rpe():
    """Breaks if ATE aligns unasked, or RPE compares places."""
    # 3 east and 4 north of it: 5 away at every pose.
    off = BENT + [3, 4, 0]
    assert ate(BENT, off) == pytest.approx(5)
    assert rpe(BENT, off) == pytest.approx((0, 0), abs=1e-12)
    assert ate(BENT, off, "se2") == pytest.approx(0, abs=1e-12)


def test_one_wrong_step_by_hand():
    """Breaks if errors are averaged plainly instead of as root mean squares, or added up."""
    # The last of four steps is 2 m long instead of 1: (5, 0) for (4, 0).
    longer = walked(*[(1, 0, 0)] * 3, (2, 0, 0))
    assert ate(STRAIGHT, longer) == pytest.approx(math.sqrt(1 / 5))  # 1 m at one of 5 poses
    assert rpe(STRAIGHT, longer).translation == pytest.approx(math.sqrt(1 / 4))  # one of 4 steps
    # Over two steps, one of the three pairs has it.
    assert rpe(STRAIGHT, longer, 2).translation == pytest.approx(math.sqrt(1 / 3))
    assert rpe(STRAIGHT, longer).rotation == 0


def test_a_constant_drift_of_heading_by_hand():
    """Breaks if steps are compared in the room's frame, in which a drift grows."""
    # Each step turns by 10 degrees that were not there. A step is a meter ahead in its own frame
    # all the same, so one step differs by the turn alone.
    drifting = walked(*[(1, 0, 10)] * 4)
    assert rpe(STRAIGHT, drifting) == pytest.approx((0, 10), abs=1e-9)
    # Two steps: (1, 0) and then a meter at 10 degrees, instead of (2, 0): off by
    # (cos 10 - 1, sin 10), whose length is the chord 2 sin 5 degrees; 20 degrees turned.
    chord = 2 * math.sin(math.radians(5))
    assert rpe(STRAIGHT, drifting, 2) == pytest.approx((chord, 20), abs=1e-9)
    # Positions: sums of e^(i 10 k) for k below 0, 1, 2, 3, 4, against 0, 1, 2, 3, 4.
    places = np.cumsum([0, *np.exp(1j * np.radians([0, 10, 20, 30]))])
    expected = math.sqrt(np.mean(np.abs(places - np.arange(5)) ** 2))
    assert ate(STRAIGHT, drifting) == pytest.approx(expected)
    assert 0 < ate(STRAIGHT, drifting, "se2") < expected


def test_a_turned_start_by_hand():
    """Breaks if alignment does not turn, turns the wrong way, or flips."""
    # The same walk begun at (2, 1) looking north: (2, 1), ..., (2, 5).
    turned = walked(*[(1, 0, 0)] * 4, start=(2.0, 1.0, math.pi / 2))
    # Distances to (k, 0) from (2, 1 + k): squares (2 - k)^2 + (1 + k)^2 = 5, 5, 9, 17, 29.
    assert ate(STRAIGHT, turned) == pytest.approx(math.sqrt((5 + 5 + 9 + 17 + 29) / 5))
    assert rpe(STRAIGHT, turned) == pytest.approx((0, 0), abs=1e-9)
    np.testing.assert_allclose(aligned(STRAIGHT, turned), STRAIGHT[:, :2], atol=1e-12)
    mirrored = BENT * [1, -1, -1]
    assert ate(BENT, mirrored, "se2") > 0.05


def test_alignment_is_the_best_there_is():
    """Breaks if the rigid motion that is found is not that of least squares."""
    rng = np.random.default_rng(0)
    true, other = rng.normal(size=(2, 12, 2))
    best = ate(true, other, "se2")
    p, q = (x[:, 0] + 1j * x[:, 1] for x in (other, true))
    for angle in np.radians(np.arange(0, 360, 0.5)):
        moved = np.exp(1j * angle) * (p - p.mean()) + q.mean()
        assert math.sqrt(np.mean(np.abs(moved - q) ** 2)) >= best - 1e-12


def test_angles_differ_over_the_seam():
    """Breaks if 179 and -179 degrees are 358 apart."""
    true, other = (walked((0, 0, turn)) for turn in (179, -179))
    assert rpe(true, other).rotation == pytest.approx(2)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ate(STRAIGHT, BENT[:3]), r"trajectories of \[5, 3\] and \[3, 3\]"),
        (lambda: ate(STRAIGHT[:0], BENT[:0]), r"trajectories of \[0, 3\] and \[0, 3\]"),
        (lambda: ate(STRAIGHT, BENT * np.nan), "the other trajectory has numbers that are not"),
        (lambda: ate(STRAIGHT, BENT, "sim2"), "align is 'sim2', expected"),
        (lambda: rpe(STRAIGHT, BENT, 5), "delta is 5, expected from 1 to 4 of 5 poses"),
        (lambda: rpe(STRAIGHT, BENT, 0), "delta is 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, told):
    """Breaks if trajectories of other moments are compared, or nan is reported as an error."""
    with pytest.raises(ValueError, match=told) as refused:
        call()
    assert "\n" not in str(refused.value)
