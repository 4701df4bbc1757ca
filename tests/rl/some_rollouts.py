"""Rollouts of the very small model: pictures of captions, and plans."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.data.interleaved import RowShape, caption_row, stack
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import Sampling
from latentum_jax.rl.rollouts import draw_rollouts, rollout_rows, say_and_draw
from latentum_jax.sharding import make_mesh
from tests.small import SMALL, make_small

SAMPLING = Sampling(temperature=0.7, top_k=0, top_p=0.9)
GROUP = 2
CAPTIONS = ("up", "move down left")
LIMITS = Limits(steps=3, images=2, text=3)
PROMPT = "<|im_start|>user\nmove"
WIDTH = 32  # of a prompt


def caption_rows():
    """Two captions, each twice."""
    blank = np.zeros((SMALL.vision.num_tokens, SMALL.quantizer.num_codebooks), np.int32)
    shape = RowShape(12, 1, 1, SMALL.vision)
    rows = [caption_row(text, blank, make_small().tokenizer, shape) for text in CAPTIONS]
    return jax.tree.map(jnp.asarray, stack([row for row in rows for _ in range(GROUP)]))


@functools.cache
def pictures():
    """Rows of captions with what was drawn for them."""
    small, rows = make_small(), caption_rows()
    seeds = jnp.arange(4, dtype=jnp.uint32)
    how = {"ids": small.tokenizer.ids, "sampling": SAMPLING, "group": GROUP}
    return {**rows, **draw_rollouts(small.model, small.params, rows, seeds, **how)}


def eager_to_draw():
    """The small model's parameters, to which `<img>`, `</img>` and the end are likely words."""
    small = make_small()
    head, ids = small.params["language"]["lm_head"], small.tokenizer.ids
    likely = np.random.default_rng(5).standard_normal((len(head), 3)) * (1.0, 0.7, 0.5)
    head = head.at[:, jnp.asarray([ids.img, ids.img_end, ids.im_end])].set(likely)
    return {**small.params, "language": {**small.params["language"], "lm_head": head}}


def plan_prompts(rows=8):
    """The same prompt and a picture each, padded on the right."""
    tokenizer, vision = make_small().tokenizer, SMALL.vision
    slots = "<IMG_CONTEXT>" * vision.num_tokens
    ids = tokenizer.encode(f"{PROMPT}<img>{slots}</img> up")
    prompt = np.full((rows, WIDTH), tokenizer.ids.pad, np.int32)
    prompt[:, : len(ids)] = ids
    side = vision.image_size
    seen = np.random.default_rng(0).integers(0, 256, (rows, 1, side, side, 3), np.uint8)
    return {
        "prompt": jnp.asarray(prompt),
        "prompt_length": jnp.full(rows, len(ids), jnp.int32),
        "seen": jnp.asarray(seen),
    }


def plan_shape():
    """Rows that hold any plan within the limits."""
    length = WIDTH + LIMITS.room(SMALL.vision.num_tokens) + LIMITS.images
    count = SMALL.quantizer.num_codebooks
    return RowShape(length, 1 + LIMITS.images, LIMITS.images, SMALL.vision, 1, count)


@functools.cache
def plans():
    """What was said and drawn, and the rows of it."""
    small, prompts = make_small(), plan_prompts()
    how = {"ids": small.tokenizer.ids, "limits": LIMITS, "sampling": SAMPLING}
    seeds = jnp.arange(8, dtype=jnp.uint32)
    said = say_and_draw(small.model, eager_to_draw(), prompts, seeds, **how)
    with jax.set_mesh(make_mesh({})):
        rows = rollout_rows(prompts, said, small.tokenizer, plan_shape())
    return said, rows
