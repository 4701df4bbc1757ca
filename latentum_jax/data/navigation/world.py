"""A square room with coloured walls and pillars, seen in the first person: a ray is cast a column.

The room spans [0, 4] meters along x (east) and y (north). Walls bear vertical stripes, so that a
picture tells where along a wall it looks. Everything follows from the room's seed, which belongs to
one split alone.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentum_jax.data.navigation.motion import Pose, compose
from latentum_jax.data.navigation.words import Action

SIZE = 4.0  # meters along a wall
CLEARANCE = 0.2  # meters that an agent keeps from walls and pillars
SIDE = 96  # pixels of a picture; the view is 90 degrees wide
EYE = 0.6  # meters above the floor and below the ceiling

WALLS = {
    "red": (205, 60, 50),
    "green": (60, 165, 75),
    "blue": (60, 85, 205),
    "yellow": (225, 200, 60),
}
EAST, NORTH, WEST, SOUTH = range(4)  # surfaces, in the order of `WALLS`
PILLARS = {
    "purple": (150, 45, 175),
    "cyan": (50, 205, 215),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "pink": (250, 130, 185),
}
SURFACES = (*WALLS, *PILLARS)  # names of what a ray may hit, by number
STRIPES = np.array([1.0, 0.62, 0.92, 0.54, 0.84, 0.46, 0.76, 0.7], np.float32)  # half a meter each
FLOOR, CEILING = (112, 104, 96), (170, 176, 184)

# Seeds that divide by this are held out.
HELD_OUT = 8
_INNER, _APART = 0.8, 1.0  # meters from walls to the middles of pillars, and between these
_MARGIN = 1e-6  # meters that are left to what stops a step
_FADE = 0.12  # by which a surface a meter away is darker
_COLOURS = np.array([*WALLS.values(), *PILLARS.values()], np.float32)


@dataclasses.dataclass(frozen=True)
class Pillar:
    """A pillar: its middle, half its width, its surface, and whether it is round or square."""

    x: float
    y: float
    radius: float
    surface: int
    round: bool


@dataclasses.dataclass(frozen=True)
class Room:
    """A room and its pillars, each of a colour of its own."""

    seed: int
    pillars: tuple[Pillar, ...]

    @classmethod
    def of(cls, seed: int) -> "Room":
        """The room of a seed: 2 to 4 pillars, 30 to 50 cm wide, a meter and more apart."""
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 5))
        places: list[tuple[float, float]] = []
        while len(places) < count:
            for x, y in rng.uniform(_INNER, SIZE - _INNER, (16, 2)).tolist():
                if len(places) < count and all(math.dist((x, y), p) >= _APART for p in places):
                    places.append((x, y))
            if len(places) < count:
                places = []  # where two lie across the middle there may be no room for four
        radii, rounds = rng.uniform(0.15, 0.25, count).tolist(), (rng.random(count) < 0.5).tolist()
        colours = (len(WALLS) + rng.permutation(len(PILLARS))[:count]).tolist()
        placed = zip(places, radii, colours, rounds, strict=True)
        return cls(seed, tuple(Pillar(x, y, *rest) for (x, y), *rest in placed))

    @property
    def split(self) -> str:
        """ "train" or "test"."""
        return split_of(self.seed)


def split_of(seed: int) -> str:
    """The split of a room's seed: one in 8 is "test"."""
    return "train" if seed % HELD_OUT else "test"


def random_room(rng: np.random.Generator, split: str = "train") -> Room:
    """A room of a split."""
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    seed = HELD_OUT * int(rng.integers(1 << 40))
    return Room.of(seed if split == "test" else seed + int(rng.integers(1, HELD_OUT)))


class Scan(NamedTuple):
    """What the rays of N views hit, a ray a column from left to right.

    depth: float [N P], meters ahead of the agent. surface: int [N P], number in `SURFACES`.
    along: float [N P], meters along the wall that is hit. slant: float [P], meters along the ray
    for each meter ahead.
    """

    depth: Float[np.ndarray, "N P"]
    surface: Int[np.ndarray, "N P"]
    along: Float[np.ndarray, "N P"]
    slant: Float[np.ndarray, "P"]


def cast(room: Room, poses: Float[np.ndarray, "N 3"], side: int = SIDE) -> Scan:
    """Rays through the middle of each of `side` columns of a view 90 degrees wide."""
    left = 1 - (2 * np.arange(side) + 1) / side  # for each meter ahead
    x, y, yaw = (poses[:, i, None] for i in range(3))
    cos, sin = np.cos(yaw), np.sin(yaw)
    dx, dy = cos - sin * left, sin + cos * left
    with np.errstate(divide="ignore"):
        per_x, per_y = 1 / dx, 1 / dy
    to_x = np.maximum(-x * per_x, (SIZE - x) * per_x)
    to_y = np.maximum(-y * per_y, (SIZE - y) * per_y)
    depth, on_x = np.minimum(to_x, to_y), to_x < to_y
    surface = np.where(on_x, np.where(dx > 0, EAST, WEST), np.where(dy > 0, NORTH, SOUTH))
    along = np.where(on_x, y + depth * dy, x + depth * dx)
    squared = 1 + left * left
    for pillar in room.pillars:
        to_pillar = (pillar.x - x, pillar.y - y)
        if pillar.round:
            hit, at = _hit_round(pillar.radius, *to_pillar, dx, dy, squared)
        else:
            hit, at = _hit_square(pillar.radius, *to_pillar, per_x, per_y)
        hit &= at < depth
        depth, surface = np.where(hit, at, depth), np.where(hit, pillar.surface, surface)
    return Scan(depth, surface, along, np.sqrt(squared))


def _hit_round(radius, x, y, dx, dy, squared):
    """Whether rays enter a disc that lies at (x, y) from their start, and where."""
    nearest = dx * x + dy * y
    inside = nearest * nearest - squared * (x * x + y * y - radius * radius)
    at = (nearest - np.sqrt(np.maximum(inside, 0))) / squared
    return (inside > 0) & (at > 0), at


def _hit_square(radius, x, y, per_x, per_y):
    """The same of an upright square."""
    x_in, x_out = (x - radius) * per_x, (x + radius) * per_x
    y_in, y_out = (y - radius) * per_y, (y + radius) * per_y
    at = np.maximum(np.minimum(x_in, x_out), np.minimum(y_in, y_out))
    return (at > 0) & (at < np.minimum(np.maximum(x_in, x_out), np.maximum(y_in, y_out))), at


def draw(room: Room, pose: Pose, side: int = SIDE) -> UInt8[np.ndarray, "P P 3"]:
    """What an agent sees, `side` pixels a side."""
    return paint(cast(room, np.asarray([pose], float), side))[0]


def draw_all(
    room: Room, poses: Float[np.ndarray, "N 3"], side: int = SIDE
) -> UInt8[np.ndarray, "N P P 3"]:
    """`draw` of several poses, which together cost less."""
    return paint(cast(room, poses, side))


def paint(scan: Scan) -> UInt8[np.ndarray, "N P P 3"]:
    """The pictures of a scan: each column its surface's colour, as high as it is near."""
    side = scan.depth.shape[1]
    light = (1 / (1 + _FADE * scan.depth)).astype(np.float32)
    stripe = np.clip((scan.along * (len(STRIPES) / SIZE)).astype(int), 0, len(STRIPES) - 1)
    light *= np.where(scan.surface < len(WALLS), STRIPES[stripe], np.float32(1))
    columns = (_COLOURS[scan.surface] * light[..., None]).astype(np.uint8)
    columns = columns.reshape(len(columns), 1, 3 * side)
    # Rows from the horizon: row r, r + 1/2 rows away, shows what is higher than that.
    rows = np.arange(side) - side // 2
    away = np.where(rows < 0, -1 - rows, rows).astype(np.uint16)[:, None]
    high = np.ceil(EYE * side / 2 / scan.depth - 0.5)
    high = np.minimum(high, side).astype(np.uint16).repeat(3, axis=1)[:, None]
    behind = np.where(rows[:, None, None] < 0, np.uint8(CEILING), np.uint8(FLOOR))
    behind = np.broadcast_to(behind, (side, side, 3)).reshape(side, 3 * side)
    # A choice between bytes by a mask of bits: many times as fast as np.where.
    seen = np.negative((away < high).view(np.uint8))
    seen &= behind ^ columns
    seen ^= behind
    return seen.reshape(-1, side, side, 3)


def is_clear(room: Room, x: float, y: float) -> bool:
    """Whether an agent may stand there: `CLEARANCE` and more from every wall and pillar."""
    if not (CLEARANCE <= min(x, y) and max(x, y) <= SIZE - CLEARANCE):
        return False
    for pillar in room.pillars:
        off, reach = (x - pillar.x, y - pillar.y), pillar.radius + CLEARANCE
        if (math.hypot(*off) if pillar.round else max(map(abs, off))) < reach:
            return False
    return True


def advance(room: Room, pose: Pose, action: Action) -> Pose:
    """The pose after an action: `compose`, its way cut short by what stands in it, its turn whole.

    Raises ValueError where the agent may not stand at `pose`.
    """
    pose = Pose(*map(float, pose))
    if not is_clear(room, pose.x, pose.y):
        raise ValueError(f"{pose} is in a wall or a pillar, or nearer than {CLEARANCE} m to one")
    after = compose(pose, action)
    share = free_share(room, pose.x, pose.y, after.x - pose.x, after.y - pose.y)
    if share == 1:
        return after
    x, y = pose.x + share * (after.x - pose.x), pose.y + share * (after.y - pose.y)
    return Pose(x, y, after.yaw)


def free_share(room: Room, x: float, y: float, dx: float, dy: float) -> float:
    """How much of the way from a clear (x, y) to (x + dx, y + dy) an agent gets, from 0 to 1."""
    far = SIZE - CLEARANCE
    share = min(_until(x, dx, CLEARANCE, far), _until(y, dy, CLEARANCE, far))
    for pillar in room.pillars:
        stop = _stop_round if pillar.round else _stop_square
        share = min(share, stop(pillar.radius + CLEARANCE, pillar.x - x, pillar.y - y, dx, dy))
    if share >= 1:
        return 1.0
    return max(0.0, share - _MARGIN / math.hypot(dx, dy))


def _until(at: float, step: float, low: float, high: float) -> float:
    """The share of a step after which it leaves [low, high]."""
    if not step:
        return math.inf
    return ((high if step > 0 else low) - at) / step


def _stop_round(radius: float, x: float, y: float, dx: float, dy: float) -> float:
    """The share of a step after which it enters a disc at (x, y) from its start."""
    squared, nearest = dx * dx + dy * dy, dx * x + dy * y
    inside = nearest * nearest - squared * (x * x + y * y - radius * radius)
    if inside <= 0 or nearest <= 0:
        return math.inf
    return (nearest - math.sqrt(inside)) / squared


def _stop_square(radius: float, x: float, y: float, dx: float, dy: float) -> float:
    """The same of an upright square."""
    enter, leave = -math.inf, math.inf
    for at, step in ((x, dx), (y, dy)):
        if step:
            one, other = (at - radius) / step, (at + radius) / step
            enter, leave = max(enter, min(one, other)), min(leave, max(one, other))
        elif abs(at) >= radius:
            return math.inf
    return enter if 0 <= enter < leave else math.inf
