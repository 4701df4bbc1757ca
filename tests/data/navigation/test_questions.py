"""What is asked about a view, by hand, and captions read back."""

import math

import numpy as np
import pytest

from latentum_jax.data.navigation import questions
from latentum_jax.data.navigation.motion import Pose
from latentum_jax.data.navigation.questions import View, caption, parse_caption, pose_text, turns
from latentum_jax.data.navigation.stream import random_view
from latentum_jax.data.navigation.world import SURFACES, Pillar, Room

PINK, CYAN = SURFACES.index("pink"), SURFACES.index("cyan")
# From the middle looking east: pink 1 m ahead, cyan behind.
ROOM = Room(1, (Pillar(3.0, 2.0, 0.25, PINK, False), Pillar(1.0, 2.0, 0.25, CYAN, True)))
VIEW = View(ROOM, Pose(2.0, 2.0, 0.0))


def answers(view):
    return dict(turns(np.random.default_rng(0), view))


def test_a_view_by_hand():
    """Breaks if columns are counted from the right, or lengths are told ahead, not along rays."""
    # The middles of the 6 columns are pixels 8, 24, ... of 96, which look (47.5 - pixel) / 48 to
    # the left a meter ahead: .823, .490, .156, -.177, -.510, -.844. The wall is 2 m ahead, along
    # the rays 2 sqrt(1 + left^2) = 2.59, 2.23, .., .., 2.25, 2.62; the pillar's face 0.75 m ahead
    # reaches 0.25 m to either side, a third: columns 3 and 4 see it at 0.75 x 1.012 and 1.016.
    far = [("red", 26), ("red", 22), ("pink", 8), ("pink", 8), ("red", 22), ("red", 26)]
    assert VIEW.columns == far
    # 0.333 to the left is pixel 47.5 - 16 = 31.5: pixels 32 to 63 see it, the middle one is 48.
    assert VIEW.pillars == [("pink", 4, 8)]
    assert VIEW.wall == "red" and VIEW.free == 5  # to 3 - 0.25 - 0.2 = 2.55
    told = answers(VIEW)
    assert told[questions.VIEW] == "red 26, red 22, pink 8, pink 8, red 22, red 26"
    assert told["What colours are seen?"] == "red red pink pink red red"
    assert told["How far is each column?"] == "26 22 8 8 22 26"
    assert told[questions.POSE] == "x 20 y 20 yaw 0"
    assert told[questions.SEEN] == "pink column 4 far 8"
    assert told["Which wall is ahead?"] == "red" and told["How far can I go?"] == "5"


def test_where_a_pillar_is_asked_of_seen_and_hidden_ones():
    """Breaks if a pillar behind the agent, or none of the room, is told a place."""
    found = {}
    for seed in range(60):
        told = dict(turns(np.random.default_rng(seed), VIEW))
        found |= {q: a for q, a in told.items() if q.startswith("Where is the")}
    assert found["Where is the pink pillar?"] == "column 4 far 8"
    assert found["Where is the cyan pillar?"] == found["Where is the white pillar?"] == "none"


@pytest.mark.parametrize(
    ("degrees", "told"), [(0, 0), (4, 0), (6, 10), (-4, 0), (-6, 350), (-180, 180), (176, 180)]
)
def test_directions_are_tens_of_degrees(degrees, told):
    """Breaks if a direction has two names, 0 and 360, or is told in another sense."""
    assert pose_text(Pose(0.26, 3.74, math.radians(degrees))) == f"x 3 y 37 yaw {told}"


def test_captions_are_read_back():
    """Breaks if something of a view is lost in its caption."""
    assert caption(VIEW) == (
        "at x 20 y 20 yaw 0, view red 26, red 22, pink 8, pink 8, red 22, red 26, "
        "pillars pink column 4 far 8"
    )
    rng = np.random.default_rng(2)
    views = [random_view(rng) for _ in range(60)]
    for view in views:
        read = parse_caption(caption(view))
        assert (read["columns"], read["pillars"]) == (view.columns, view.pillars)
        x, y, yaw = read["pose"]
        assert max(abs(x - 10 * view.pose.x), abs(y - 10 * view.pose.y)) <= 0.5
        assert math.cos(math.radians(yaw) - view.pose.yaw) >= math.cos(math.radians(5.001))
    assert {len(view.pillars) for view in views} >= {0, 1, 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a maze",
        caption(VIEW).replace("pink", "brown"),
        caption(VIEW).replace("red 22, ", "", 1),
        caption(VIEW) + " and more",
        caption(VIEW).replace("column 4", "column 7"),
        caption(VIEW).replace("yaw 0", "yaw"),
    ],
)
def test_what_is_no_caption(text):
    """Breaks if a garbled description is read as a view."""
    assert parse_caption(text) is None


def test_answers_are_read_back():
    """Breaks if an answer cannot be compared to the truth."""
    told = answers(VIEW)
    assert questions.parse_view(told[questions.VIEW]) == VIEW.columns
    assert questions.parse_pose(told[questions.POSE]) == (20, 20, 0)
    assert questions.parse_pillars(told[questions.SEEN]) == [("pink", 4, 8)]
    assert questions.parse_pillars("none") == [] and questions.parse_pillars("some") is None
    assert questions.parse_view("red 1, red 2") is None and questions.parse_pose("x 1") is None
