"""Batches made on the fly: each a pure function of (seed, index), of rows that no disk holds."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from latentum_jax.data.interleaved import Row, stack

Make = Callable[[np.random.Generator], Row]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Batches of one shape: `share` of all batches, `rows` rows each, made by `make(rng)`."""

    share: float
    rows: int
    make: Make


def batch_of(buckets: Sequence[Bucket], seed: int, index: int) -> Row:
    """Batch `index` of the stream: a bucket is picked by its share, its rows are made."""
    rng = np.random.default_rng((seed, index))
    shares = np.asarray([bucket.share for bucket in buckets])
    bucket = buckets[rng.choice(len(buckets), p=shares / shares.sum())]
    return stack([bucket.make(rng) for _ in range(bucket.rows)])
