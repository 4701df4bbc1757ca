"""How far one trajectory is from another: the errors that planning is measured by (appendix D).

Absolute trajectory error and relative pose error in the plane, after Sturm et al., "A benchmark for
the evaluation of RGB-D SLAM systems" (2012). The published planning figures compare trajectories as
they are, without alignment.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latentum_jax.data.navigation.motion import relative, wrapped


class RelativeError(NamedTuple):
    """Root mean squares over all pairs of poses: meters, and degrees."""

    translation: float
    rotation: float


def ate(
    true: Float[np.ndarray, "T n"], other: Float[np.ndarray, "S m"], align: str = "none"
) -> float:
    """Absolute trajectory error: the root mean square distance of positions, in meters.

    Args:
      true, other: poses (x, y, yaw) or positions (x, y) of the same moments.
      align: "se2" first moves `other` rigidly to where this is smallest (`aligned`).

    Raises:
      ValueError: they are not as many, or `align` is neither.
    """
    _check(true, other)
    if align not in ("none", "se2"):
        raise ValueError(f"align is {align!r}, expected 'none' or 'se2'")
    places = aligned(true, other) if align == "se2" else other[:, :2]
    return _rms(np.linalg.norm(places - true[:, :2], axis=1))


def rpe(
    true: Float[np.ndarray, "T 3"], other: Float[np.ndarray, "S 3"], delta: int = 1
) -> RelativeError:
    """Relative pose error: how a motion over `delta` steps differs, wherever it began.

    The error of a pair is E = (Q_i^-1 Q_{i + delta})^-1 (P_i^-1 P_{i + delta}) of true poses Q and
    others P; what is told are the root mean squares of its translation and of its angle.

    Raises ValueError where there are not as many poses, or no pair is `delta` apart.
    """
    _check(true, other)
    if not 1 <= delta < len(true):
        raise ValueError(
            f"delta is {delta}, expected from 1 to {len(true) - 1} of {len(true)} poses"
        )
    difference = relative(other, delta) - relative(true, delta)
    # E's rotation keeps the length of its translation.
    translation = _rms(np.linalg.norm(difference[:, :2], axis=1))
    return RelativeError(translation, _rms(np.degrees(wrapped(difference[:, 2]))))


def aligned(
    true: Float[np.ndarray, "T n"], other: Float[np.ndarray, "S m"]
) -> Float[np.ndarray, "T 2"]:
    """The positions of `other` turned and moved to where they fit those of `true` best.

    Umeyama's least squares in the plane, without scale: the turn is the angle of the sum of
    conj(p) q over centred positions p and q as complex numbers.
    """
    _check(true, other)
    p, q = (_complex(poses) for poses in (other, true))
    turn = np.vdot(p - p.mean(), q - q.mean())
    turn = turn / abs(turn) if abs(turn) else 1.0
    moved = turn * (p - p.mean()) + q.mean()
    return np.stack([moved.real, moved.imag], axis=1)


def _complex(poses: np.ndarray) -> np.ndarray:
    return poses[:, 0] + 1j * poses[:, 1]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _check(true: np.ndarray, other: np.ndarray) -> None:
    if true.shape != other.shape or not len(true):
        raise ValueError(
            f"trajectories of {list(true.shape)} and {list(other.shape)}, expected as many of both"
        )
    for name, values in (("true", true), ("other", other)):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} trajectory has numbers that are not finite")
