"""Poses and actions against compositions by hand."""

import math

import numpy as np
import pytest

from latentum_jax.data.navigation.motion import Pose, actions_between, compose, relative, wrapped
from latentum_jax.data.navigation.words import Action, action_text

RIGHT_ANGLE = math.pi / 2


@pytest.mark.parametrize(
    ("pose", "action", "after"),
    [
        # Looking east, ahead is +x and left is +y.
        ((1, 1, 0), (0.5, 0.2, 90), (1.5, 1.2, RIGHT_ANGLE)),
        # Looking north, ahead is +y and left is -x.
        ((1, 1, RIGHT_ANGLE), (0.5, 0.2, -90), (0.8, 1.5, 0)),
        # 60 degrees: cos 1/2, sin sqrt(3)/2; half a meter ahead.
        ((0, 0, math.pi / 3), (0.5, 0, 0), (0.25, 0.25 * 3**0.5, math.pi / 3)),
        # 170 + 30 degrees are -160.
        ((0, 0, math.radians(170)), (0, 0, 30), (0, 0, math.radians(-160))),
    ],
)
def test_composition_by_hand(pose, action, after):
    """Breaks if the turn comes before the step, an axis is mirrored, or yaw is not wrapped."""
    np.testing.assert_allclose(compose(Pose(*pose), Action(*action)), after, atol=1e-12)


def test_actions_lead_from_pose_to_pose():
    """Breaks if displacements are told in the frame of the room or of the pose behind."""
    # (0, 0) north -> (-0.2, 0.5): half a meter ahead, 0.2 to the left, a quarter turn left.
    poses = np.array([[0, 0, RIGHT_ANGLE], [-0.2, 0.5, math.pi], [-0.2, 0.5, -math.pi + 0.1]])
    first, second = actions_between(poses)
    assert first == Action(0.5, 0.2, 90)
    assert second == Action(0, 0, round(math.degrees(0.1), 6))  # over the seam of yaw
    np.testing.assert_allclose(relative(poses, 2), [[0.5, 0.2, RIGHT_ANGLE + 0.1]], atol=1e-12)


def test_whole_numbers_stay_whole_in_words():
    """Breaks if 12 degrees, walked and read back, are told as 12.00."""
    pose = Pose(0.3, 0.7, 1.1)
    after = compose(pose, Action(1, 0.13, 12))
    (action,) = actions_between(np.array([pose, after]))
    assert action_text(action) == (
        "move 1 meters along the X-axis and 0.13 meters along the Y-axis, rotating by 12 degrees"
    )


def test_angles_are_brought_to_one_turn():
    """Breaks if half a turn has two names, or an array is not handled."""
    np.testing.assert_allclose(
        wrapped(np.array([0, math.pi, -math.pi, 7])), [0, *[-math.pi] * 2, 7 - 2 * math.pi]
    )
