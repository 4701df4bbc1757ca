"""Batches made on the fly: every index is its own."""

import chex
import numpy as np

from latentum_jax.data.buckets import Bucket, batch_of


def test_batches_follow_the_shares_and_the_seed():
    """Breaks if buckets are picked evenly, or two runs of one seed see different data."""
    buckets = [
        Bucket(share, 2, lambda rng, tag=tag: {"tag": np.asarray(tag), "x": rng.random()})
        for tag, share in enumerate((0.8, 0.2))
    ]
    tags = [batch_of(buckets, 0, index)["tag"][0] for index in range(300)]
    assert 30 <= sum(tags) <= 90  # 0.2 of 300 is 60, a standard error is 7
    chex.assert_trees_all_equal(batch_of(buckets, 3, 17), batch_of(buckets, 3, 17))
    assert batch_of(buckets, 3, 17)["x"][0] != batch_of(buckets, 4, 17)["x"][0]
