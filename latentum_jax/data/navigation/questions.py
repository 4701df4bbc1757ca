"""Short questions about a view of the room with their answers, and a caption to be read back.

The view is told in 6 columns, as wide as the tiny vision encoder's patches, counted from 1 on the
left. Lengths are whole decimeters, directions tens of degrees counterclockwise from east.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import numpy as np

from latentum_jax.data.navigation.motion import Pose
from latentum_jax.data.navigation.world import (
    PILLARS,
    SIDE,
    SURFACES,
    Room,
    Scan,
    cast,
    free_share,
    paint,
)

COLUMNS = 6
WIDTH = SIDE // COLUMNS  # pixels of a column
NONE = "none"
VIEW, POSE, SEEN = "What is in each column?", "Where am I?", "Which pillars are seen?"
DESCRIBE = "Describe the view."
_ENOUGH = 2  # pixels of a pillar's width that make it seen
_FAR = 3.0  # meters that the way ahead is looked along

_POSE = re.compile(r"x (\d+) y (\d+) yaw (\d+)")
_SURFACE = rf"({'|'.join(SURFACES)}) (\d+)"
_PILLAR = re.compile(rf"({'|'.join(PILLARS)}) column ([1-{COLUMNS}]) far (\d+)")
_CAPTION = re.compile(
    rf"at (x \d+ y \d+ yaw \d+), view ({_SURFACE}(?:, {_SURFACE}){{{COLUMNS - 1}}}), "
    rf"pillars ({NONE}|{_PILLAR.pattern}(?:, {_PILLAR.pattern})*)"
)


@dataclasses.dataclass(frozen=True)
class View:
    """A room seen from a pose: what is asked about."""

    room: Room
    pose: Pose

    @functools.cached_property
    def scan(self) -> Scan:
        """What its rays hit, a ray a pixel of the picture's width."""
        return cast(self.room, np.asarray([self.pose], float))

    def draw(self) -> np.ndarray:
        """Its picture: uint8 [96 96 3]."""
        return paint(self.scan)[0]

    @functools.cached_property
    def far(self) -> list[int]:
        """Decimeters along the ray of each pixel column."""
        return np.rint(10 * self.scan.depth[0] * self.scan.slant).astype(int).tolist()

    @functools.cached_property
    def columns(self) -> list[tuple[str, int]]:
        """Surface and decimeters in the middle of each of the 6 columns."""
        surface = self.scan.surface[0, WIDTH // 2 :: WIDTH].tolist()
        return [
            (SURFACES[s], d) for s, d in zip(surface, self.far[WIDTH // 2 :: WIDTH], strict=True)
        ]

    @functools.cached_property
    def pillars(self) -> list[tuple[str, int, int]]:
        """Pillars from left to right: colour, column of the middle of what is seen, decimeters."""
        found = []
        for surface in {pillar.surface for pillar in self.room.pillars}:
            pixels = np.flatnonzero(self.scan.surface[0] == surface)
            if len(pixels) >= _ENOUGH:
                middle = int(pixels[len(pixels) // 2])
                near = min(self.far[pixel] for pixel in pixels)
                found.append((middle, SURFACES[surface], middle // WIDTH + 1, near))
        return [pillar[1:] for pillar in sorted(found)]

    @property
    def wall(self) -> str:
        """The wall that lies straight ahead, whatever stands before it."""
        empty = cast(dataclasses.replace(self.room, pillars=()), np.asarray([self.pose], float), 1)
        return SURFACES[int(empty.surface[0, 0])]

    @property
    def free(self) -> int:
        """Decimeters that the agent can go ahead, at most 30."""
        cos, sin = math.cos(self.pose.yaw), math.sin(self.pose.yaw)
        share = free_share(self.room, self.pose.x, self.pose.y, _FAR * cos, _FAR * sin)
        return int(10 * _FAR * share + 1e-6)


def turns(rng: np.random.Generator, view: View) -> list[tuple[str, str]]:
    """All questions about a view with their answers, shuffled; each names one pillar at random."""
    pillar = list(PILLARS)[int(rng.integers(len(PILLARS)))]
    seen = {name: told for name, *told in view.pillars}
    column = int(rng.integers(COLUMNS))
    surface, far = view.columns[column]
    asked = [
        (VIEW, _view(view)),
        ("What colours are seen?", " ".join(name for name, _ in view.columns)),
        ("How far is each column?", " ".join(str(far) for _, far in view.columns)),
        (f"What is in column {column + 1}?", f"{surface} {far}"),
        (POSE, pose_text(view.pose)),
        (SEEN, _pillars(view)),
        (f"Where is the {pillar} pillar?", _place(*seen[pillar]) if pillar in seen else NONE),
        ("Which wall is ahead?", view.wall),
        ("How far can I go?", str(view.free)),
        (DESCRIBE, caption(view)),
    ]
    return [asked[i] for i in rng.permutation(len(asked)).tolist()]


def caption(view: View) -> str:
    """A view in words: the pose, what is in each column, and the pillars.

    "at x 20 y 20 yaw 0, view red 26, red 22, pink 9, red 20, red 21, red 25, pillars pink column 3
    far 8"
    """
    return f"at {pose_text(view.pose)}, view {_view(view)}, pillars {_pillars(view)}"


def parse_caption(text: str) -> dict[str, object] | None:
    """Reads a caption back: pose as `parse_pose` does, columns and pillars as `View` has them.

    None where the text does not have the form of a caption.
    """
    match = _CAPTION.fullmatch(text.strip())
    if match is None:
        return None
    view, pillars = text.split(", view ")[1].split(", pillars ")
    return {
        "pose": parse_pose(match[1]),
        "columns": parse_view(view),
        "pillars": parse_pillars(pillars),
    }


def parse_pose(text: str) -> tuple[int, int, int] | None:
    """Reads "x 20 y 31 yaw 90": decimeters and degrees."""
    match = _POSE.fullmatch(text.strip())
    return match and tuple(map(int, match.groups()))


def parse_view(text: str) -> list[tuple[str, int]] | None:
    """Reads "red 26, pink 9, ...": surface and decimeters of each column."""
    found = [re.fullmatch(_SURFACE, part) for part in text.strip().split(", ")]
    if len(found) != COLUMNS or not all(found):
        return None
    return [(match[1], int(match[2])) for match in found]


def parse_pillars(text: str) -> list[tuple[str, int, int]] | None:
    """Reads "pink column 3 far 9, ..." or "none": colour, column and decimeters of each."""
    if text.strip() == NONE:
        return []
    found = [_PILLAR.fullmatch(part) for part in text.strip().split(", ")]
    return [(m[1], int(m[2]), int(m[3])) for m in found] if all(found) else None


def pose_text(pose: Pose) -> str:
    """ "x 20 y 31 yaw 90": decimeters, and degrees from 0 to 350."""
    yaw = 10 * round(math.degrees(pose.yaw) / 10) % 360
    return f"x {round(10 * pose.x)} y {round(10 * pose.y)} yaw {yaw}"


def _view(view: View) -> str:
    return ", ".join(f"{surface} {far}" for surface, far in view.columns)


def _pillars(view: View) -> str:
    told = (f"{name} {_place(column, far)}" for name, column, far in view.pillars)
    return ", ".join(told) or NONE


def _place(column: int, far: int) -> str:
    return f"column {column} far {far}"


def vocabulary() -> Sequence[str]:
    """Texts that hold every word and number of an answer."""
    numbers = [f"{name} {far}" for name in SURFACES for far in range(58)]
    return [*numbers, *(f"x {n} y {n} yaw {10 * (n % 36)}" for n in range(2, 39))]
