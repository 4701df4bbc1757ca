"""The benchmark: the sizes are those that are named, and a row says what was timed."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.eval import bench
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, unstack_layers
from tests.small import DECODER, SMALL


def test_the_size_at_which_the_published_code_was_timed():
    """54.5M in both branches, 18.9M in the head, 64 visual tokens: figures of that measurement."""
    shapes = expected_shapes(bench.SMALL)
    count = lambda part: sum(np.prod(s) for p, s in shapes.items() if p.startswith(part))  # noqa: E731
    assert bench.SMALL.vision.num_tokens == 64
    assert count("language/") == pytest.approx(54.5e6, rel=0.002)
    assert count("head/") == pytest.approx(18.9e6, rel=0.002)


def test_rows(monkeypatch):
    """Breaks if a path is left out, a rate is of something else, or weights are made in fp32."""
    monkeypatch.setitem(bench.SIZES, "tiny", SMALL)
    monkeypatch.setitem(bench.DECODERS, "tiny", DECODER)
    ticks = itertools.count(0.0)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(ticks))  # a round is a second
    results = bench.bench("tiny", (2,), dtype="bfloat16", repeats=1)
    assert json.loads(json.dumps(results)) == results
    rows = {row["path"]: row for row in results["rows"]}
    assert list(rows) == ["encode", "generate", "answer", "plan", "decode"]
    assert rows["generate"]["seconds_per_image"] == 0.5
    assert rows["generate"]["tokens_per_second"] == 2 * SMALL.vision.num_tokens
    assert rows["plan"]["tokens_per_second"] == 2 * 4 * SMALL.vision.num_tokens
    assert rows["answer"]["tokens_per_second"] == 2 * bench.ANSWER
    assert all(row["peak_bytes"] > 0 and row["batch"] == 2 for row in results["rows"])
    assert "| decode | 2 |" in bench.table(results)
    with pytest.raises(ValueError, match="size is 'huge', expected one of"):
        bench.bench("huge", (1,))


def test_plans_are_drawn():
    """Breaks if the path that is to draw four images says something else, and draws none."""
    model = LatentUM(SMALL, jnp.float32)
    params = unstack_layers(bench.random_params(expected_shapes(SMALL), jnp.float32))
    (plan,) = [job for job in bench._model_jobs(model, params, 1) if job.path == "plan"]
    codes = plan.run(0)
    assert codes.shape == (1, 4, SMALL.vision.num_tokens, SMALL.quantizer.num_codebooks)
    assert all(image.any() for image in codes[0])


def test_random_weights_keep_the_variance():
    """Breaks if what is timed is infinities, which may run faster than numbers."""
    shapes = {"a/kernel": (5, 64, 256), "c/kernel": (3, 3, 16, 64), "q/scale": (3,)}
    params = bench.random_params(shapes, jnp.bfloat16)
    assert params["a"]["kernel"].dtype == jnp.bfloat16
    assert float(params["a"]["kernel"].astype(jnp.float32).var()) == pytest.approx(1 / 64, rel=0.1)
    assert float(params["c"]["kernel"].astype(jnp.float32).var()) == pytest.approx(1 / 144, rel=0.1)
    assert (params["q"]["scale"] == 1).all()
