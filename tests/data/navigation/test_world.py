"""The room: distances along rays by hand, what stops a step, pictures, splits, walks."""

import math

import numpy as np
import pytest

from latentum_jax.data.navigation.motion import Pose, actions_between, compose
from latentum_jax.data.navigation.walks import STEP, TURN, random_pose, walk
from latentum_jax.data.navigation.words import Action
from latentum_jax.data.navigation.world import (
    CEILING,
    CLEARANCE,
    EAST,
    FLOOR,
    NORTH,
    SIZE,
    SOUTH,
    SURFACES,
    WALLS,
    WEST,
    Pillar,
    Room,
    advance,
    cast,
    draw,
    draw_all,
    is_clear,
    random_room,
    split_of,
)

EMPTY, MIDDLE = Room(1, ()), Pose(2, 2, 0)
PINK = SURFACES.index("pink")


def room_with(x, y, *, round):
    return Room(1, (Pillar(x, y, 0.25, PINK, round),))


def scan(room, pose, side):
    depth, surface, along, slant = cast(room, np.array([pose], float), side)
    return depth[0], surface[0], along[0], slant


@pytest.mark.parametrize(
    ("quarter", "wall"), list(enumerate([EAST, NORTH, WEST, SOUTH])), ids=list(WALLS)
)
def test_a_wall_ahead_fills_the_view(quarter, wall):
    """Breaks if depth is told along the ray (a wall would bulge) or a wall is another's."""
    depth, surface, along, _ = scan(EMPTY, (2, 2, quarter * math.pi / 2), 4)
    np.testing.assert_allclose(depth, 2)  # from the middle of 4 m, in every column
    assert set(surface) == {wall}
    # Columns look 3/4, 1/4, -1/4, -3/4 m to the left a meter ahead: 1.5, 0.5, -0.5, -1.5 at 2 m.
    sign = 1 if wall in (EAST, SOUTH) else -1  # leftwards along the wall is +y, -x, -y, +x
    np.testing.assert_allclose(along, 2 + sign * np.array([1.5, 0.5, -0.5, -1.5]))


def test_rays_into_a_corner():
    """Breaks if the nearer of two walls is not the one that is seen."""
    # From (3, 1) north-east: ahead and left are each 1/sqrt(2) of x and y. Two columns, half a
    # meter to either side: directions (1 -+ 1/2, 1 +- 1/2)/sqrt(2). The left ray meets x = 4 at
    # depth sqrt(2)/0.5 = 2.828 and y = 4 at 3 sqrt(2)/1.5 = 2.828: exactly the corner; from
    # (3, 1.5) the north wall is at 2.5 sqrt(2)/1.5 = 2.357, the right ray's east wall at 0.943.
    depth, surface, along, slant = scan(EMPTY, (3, 1.5, math.pi / 4), 2)
    np.testing.assert_allclose(depth, [2.5 * 2**0.5 / 1.5, 2**0.5 / 1.5])
    assert surface.tolist() == [NORTH, EAST]
    np.testing.assert_allclose(along, [3 + 2.5 / 3, 1.5 + 1 / 3])
    np.testing.assert_allclose(slant, [1.25**0.5] * 2)


def test_pillars_by_hand():
    """Breaks if a pillar is hit at its middle, behind the agent, or a round one like a square."""
    # The only column of one looks straight ahead: the face of a pillar at 1 m is at 0.75 m.
    for round in (True, False):
        depth, surface, *_ = scan(room_with(3, 2, round=round), MIDDLE, 1)
        np.testing.assert_allclose(depth, [0.75])
        assert surface.tolist() == [PINK]
        behind, *_ = scan(room_with(1, 2, round=round), MIDDLE, 1)
        np.testing.assert_allclose(behind, [2])
    # Of two columns the left one goes (1, 1/2), through the middle of a pillar at (3, 2.5).
    depth, surface, *_ = scan(room_with(3, 2.5, round=False), MIDDLE, 2)
    np.testing.assert_allclose(depth, [0.75, 2])  # x = 2.75 at y = 2.375, inside 2.25..2.75
    depth, surface, *_ = scan(room_with(3, 2.5, round=True), MIDDLE, 2)
    np.testing.assert_allclose(depth, [1 - 0.25 / 1.25**0.5, 2])
    assert surface.tolist() == [PINK, EAST]


def test_a_picture_by_hand():
    """Breaks if walls have another height, colours or stripes, or the floor is above."""
    picture = draw(EMPTY, MIDDLE)
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
    # A wall 2 m away and 0.6 m up and down: 48 x 0.6 / 2 = 14.4 rows, so 14 half rows fit.
    wall = (picture != np.uint8(CEILING)).any(-1) & (picture != np.uint8(FLOOR)).any(-1)
    assert wall.sum(0).tolist() == [28] * 96
    assert (picture[0] == CEILING).all() and (picture[-1] == FLOOR).all()
    # Stripes of half a meter are 12 columns at 2 m: 8 of them, from y = 4 on the left to 0.
    line = picture[48].astype(int)
    assert np.flatnonzero(np.abs(np.diff(line[:, 0]))).tolist() == list(range(11, 95, 12))
    # Stripe 7 (light 0.7) in red, faded by 1 / (1 + 0.12 x 2).
    assert line[0].tolist() == [int(c * 0.7 / 1.24) for c in WALLS["red"]]
    np.testing.assert_array_equal(draw(EMPTY, MIDDLE, 48).shape, (48, 48, 3))


def test_pictures_together_are_those_drawn_one_by_one():
    """Breaks if a view of several depends on its mates."""
    rng = np.random.default_rng(0)
    room = random_room(rng)
    poses = walk(rng, room, 5)
    np.testing.assert_array_equal(draw_all(room, poses), [draw(room, Pose(*p)) for p in poses])
    assert len({draw(room, Pose(*pose)).tobytes() for pose in poses}) > 3


@pytest.mark.parametrize("round", [True, False])
def test_what_stops_a_step(round):
    """Breaks if an agent walks through a wall or a pillar, or nearer than its clearance."""
    room = room_with(3, 2, round=round)
    # The pillar begins at 2.75, its clearance at 2.55; the turn is made all the same.
    np.testing.assert_allclose(
        advance(room, MIDDLE, Action(3, 0, 90)), [2.55, 2, math.pi / 2], atol=1e-5
    )
    # To the left nothing stands before the clearance of the wall, 4 - 0.2.
    np.testing.assert_allclose(advance(room, MIDDLE, Action(0, 3, 0)), [2, 3.8, 0], atol=1e-5)
    assert advance(room, MIDDLE, Action(0.5, 0, 0)) == compose(MIDDLE, Action(0.5, 0, 0))
    stopped = advance(room, MIDDLE, Action(3, 0, 0))
    assert is_clear(room, *stopped[:2])
    assert advance(room, stopped, Action(-0.3, 0, 0)).x == pytest.approx(2.25, abs=1e-5)
    with pytest.raises(ValueError, match="is in a wall or a pillar"):
        advance(room, Pose(2.9, 2, 0), Action(0.1, 0, 0))


def test_a_round_pillar_is_passed_where_a_square_one_is_not():
    """Breaks if corners are cut off squares or put onto discs."""
    # Reaches are 0.45: at y = 2.4 a disc's edge is sqrt(0.45^2 - 0.4^2) = 0.2062 before its middle.
    start, step = Pose(2, 2.4, 0), Action(3, 0, 0)
    assert advance(room_with(3, 2, round=True), start, step).x == pytest.approx(
        3 - 0.20616, abs=1e-4
    )
    assert advance(room_with(3, 2, round=False), start, step).x == pytest.approx(2.55, abs=1e-4)


def test_a_room_follows_from_its_seed_and_has_one_split():
    """Breaks if a held-out room is trained on, or a seed draws another room the next time."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rooms = [random_room(rng, split) for _ in range(30)]
        assert {room.split for room in rooms} == {split}
        assert all(Room.of(room.seed) == room for room in rooms)
        assert len({room.pillars for room in rooms}) == 30
        for room in rooms:
            places = [(pillar.x, pillar.y) for pillar in room.pillars]
            assert 2 <= len(places) <= 4
            assert len({pillar.surface for pillar in room.pillars}) == len(places)
            assert min(math.dist(a, b) for a in places for b in places if a != b) >= 1
    assert [split_of(seed) for seed in (0, 1, 7, 8)] == ["test", "train", "train", "test"]
    with pytest.raises(ValueError, match="split is 'all', expected 'train' or 'test'"):
        random_room(rng, "all")


def test_walks_touch_nothing_and_can_be_said_exactly():
    """Breaks if a trajectory runs into something, jumps, or its actions are rounded in words."""
    rng = np.random.default_rng(3)
    room = random_room(rng)
    poses = walk(rng, room, 200)
    assert poses.shape == (201, 3) and all(is_clear(room, x, y) for x, y, _ in poses)
    actions = actions_between(poses)
    for action in actions:
        for value, unit in ((action.dx, 100), (action.dy, 100), (action.dyaw, 1)):
            assert value * unit == pytest.approx(round(value * unit), abs=1e-3)
    assert max(a.dx for a in actions) <= STEP and max(abs(a.dyaw) for a in actions) <= TURN
    pose = Pose(*poses[0])
    for action, after in zip(actions, poses[1:], strict=True):
        pose = advance(room, pose, action)
        np.testing.assert_allclose(pose[:2], after[:2], atol=1e-3)
    assert np.ptp(poses[:, 0]) > 1 and np.mean([a.dx > 0 for a in actions]) > 0.5
    start = random_pose(rng, room)
    assert tuple(walk(rng, room, 1, start)[0]) == start
    assert CLEARANCE <= start.x <= SIZE - CLEARANCE
