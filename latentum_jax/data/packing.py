"""Several samples in one row, so that little of a batch is padding.

Each sample keeps its positions and sees itself alone: its U becomes a block of its own, the `base`
of its tokens (see `kernels.placement`), its questions and pictures are numbered behind the others'.
"""

from collections.abc import Sequence

import numpy as np

from latentum_jax.data.interleaved import WORDS, Row, RowShape

PICTURES = ("pixels", "codes")


def size_of(row: Row, shape: RowShape) -> np.ndarray:
    """Tokens, pictures and targets that a row holds, int [3]."""
    return np.array([int(row["valid"].sum()), _pictures(row, shape), row["target_valid"].sum()])


def fits(sizes: Sequence[np.ndarray], shape: RowShape) -> bool:
    """Whether rows of these sizes fit into one of this shape."""
    return bool((np.sum(sizes, axis=0) <= [shape.length, shape.images, shape.targets]).all())


def pack(rows: Sequence[Row], shape: RowShape) -> Row:
    """One row of samples that fit into one, in their order.

    Raises ValueError where they do not fit.
    """
    sizes = [size_of(row, shape) for row in rows]
    if not fits(sizes, shape):
        raise ValueError(f"{np.sum(sizes, axis=0)} tokens, pictures, targets do not fit {shape}")
    begin = np.cumsum([np.zeros(3, int), *sizes], axis=0)
    base, moved = 0, []
    for row, (_, picture, _) in zip(rows, begin, strict=False):
        moved.append(_moved(row, base, int(picture), shape))
        base = int(moved[-1]["block"][row["valid"]].max(initial=base)) + 1
    packed, axes = {}, ("length", "images", "targets")
    for name in rows[0]:
        axis, _, nothing = ("images", None, 0) if name in PICTURES else WORDS[name]
        parts = [x[name][: size[axes.index(axis)]] for x, size in zip(moved, sizes, strict=True)]
        whole = np.concatenate(parts)
        rest = (getattr(shape, axis) - len(whole), *whole.shape[1:])
        packed[name] = np.concatenate([whole, np.full(rest, nothing, whole.dtype)])
    return packed


def _moved(row: Row, base: int, picture: int, shape: RowShape) -> Row:
    """A row's sample behind others: its blocks from `base` on, its pictures from `picture` on."""
    tokens = picture * shape.vision.num_tokens
    index = row["image_index"]
    return {
        **row,
        "block": row["block"] + base,
        "base": row["base"] + base,
        "image_index": np.where(index >= 0, index + tokens, index),
        "target_slot": row["target_slot"] + picture,
        "target_base": row["target_base"] + base,
        "target_block": np.where(row["target_block"], row["target_block"] + base, 0),
    }


def _pictures(row: Row, shape: RowShape) -> int:
    """How many picture slots a row uses: those that its tokens or its targets point to."""
    shown = int(row["image_index"].max(initial=-1)) // shape.vision.num_tokens
    drawn = int(row["target_slot"][row["target_valid"]].max(initial=-1))
    return max(shown, drawn) + 1
