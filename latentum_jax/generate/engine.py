"""Interleaved reasoning (section 3.3) as one program: text, images drawn in latent space, text.

Text is sampled through the understanding branch until `<img>`; the generation branch then draws L
visual tokens into the cache; these are overwritten, in the same slots, by `<img>`, the drawn tokens
as visual_projector(z_q) and `</img>` run through the understanding branch (recache); text goes on.
Rows of a batch are in lockstep by phase, each with its own length, seed and end: a row that has
drawn its `<img>` waits for the others, and what is written for a waiting row is dropped.

Answering and describing are the same program with no image allowed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt

from latentum_jax.generate.image import draw_tokens
from latentum_jax.generate.sampling import Sampling, fold, row_keys, sample
from latentum_jax.models.attention import Placement
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import Caches, Stream, empty_caches
from latentum_jax.tokenizer import SpecialIds

TEXT, IMAGE, DONE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """At most `steps` steps, `images` of them with an image, of at most `text` tokens each.

    A step is some text and, where it ends in `<img>` (which counts as a token), the image.
    """

    steps: int
    images: int
    text: int

    def room(self, num_tokens: int) -> int:
        """Cache slots that an answer can fill."""
        return self.steps * self.text + self.images * (num_tokens + 2)


class Rows(struct.PyTreeNode):
    """Where every row is."""

    caches: Caches
    position: jax.Array  # [B] the next free slot
    status: jax.Array  # [B] TEXT, IMAGE or DONE
    logits: jax.Array  # [B vocab] of the next text token
    said: jax.Array  # [B] text tokens since the last image
    tokens: jax.Array  # [B text+] all text tokens, `<img>` and `</img>` among them
    count: jax.Array  # [B] how many of them
    codes: jax.Array  # [B J L C] images drawn
    images: jax.Array  # [B] how many of them


@functools.partial(jax.jit, static_argnames=("model", "ids", "limits", "text", "codes"))
def interleave(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    ids: SpecialIds,
    limits: Limits,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """Goes on from embedded prompts, padded on the right, until every row is done.

    A row ends at `<|im_end|>`, after `limits.steps` steps, after `limits.text` tokens without an
    `<img>`, or at an `<img>` beyond `limits.images`.
    """
    keys = row_keys(seeds)
    rows = _prefill(model, params, prompt, lengths, limits)

    if limits.images == 0:
        return _say(model, params, rows, keys, ids, limits, text)

    def phase(rows: Rows) -> Rows:
        rows = _say(model, params, rows, keys, ids, limits, text)
        drawing = jnp.any(rows.status == IMAGE)
        return jax.lax.cond(
            drawing, lambda r: _draw(model, params, r, keys, ids, limits, codes), lambda r: r, rows
        )

    return jax.lax.while_loop(lambda rows: jnp.any(rows.status != DONE), phase, rows)


def _prefill(
    model: LatentUM, params: Params, prompt: Array, lengths: Array, limits: Limits
) -> Rows:
    b, t, _ = prompt.shape
    vision, count = model.config.vision, model.config.quantizer.num_codebooks
    total = t + limits.room(vision.num_tokens)
    caches = empty_caches(model.config.language, b, total, model.dtype)
    places = jnp.arange(t)[None]
    where = jnp.where(places < lengths[:, None], places, total)
    hidden, caches = _understand(model, params, prompt, where, caches)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    zero = jnp.zeros(b, jnp.int32)
    most = limits.steps * limits.text + limits.images
    return Rows(
        caches=caches,
        position=lengths.astype(jnp.int32),
        status=zero + TEXT,
        logits=model.bind({"params": params}).text_logits(last),
        said=zero,
        tokens=jnp.zeros((b, most), jnp.int32),
        count=zero,
        codes=jnp.zeros((b, limits.images, vision.num_tokens, count), jnp.int32),
        images=zero,
    )


def _understand(
    model: LatentUM, params: Params, x: Array, position: Array, caches: Caches
) -> tuple[Array, Caches]:
    """Tokens [B T D] through the understanding branch, into the caches at `position` [B T]."""
    stream = Stream({"und": Placement.causal(position)})
    hidden, caches = model.bind({"params": params}).hidden({"und": x}, stream, caches)
    return hidden["und"], caches


def _append(rows: Rows, token: Array, where: Bool[Array, "B"]) -> Rows:
    """Notes a text token for the rows in `where`."""
    index = jnp.where(where, rows.count, rows.tokens.shape[1])
    put = rows.tokens.at[jnp.arange(token.shape[0]), index].set(token, mode="drop")
    return rows.replace(tokens=put, count=rows.count + where)


def _say(
    model: LatentUM,
    params: Params,
    rows: Rows,
    keys: jax.Array,
    ids: SpecialIds,
    limits: Limits,
    sampling: Sampling,
) -> Rows:
    """Text phase: tokens for the rows that speak, until each wants an image or is done."""
    bound, total = model.bind({"params": params}), rows.caches[0].length

    def step(rows: Rows) -> Rows:
        speaking = rows.status == TEXT
        token = sample(fold(keys, rows.position), rows.logits, sampling)
        rows = _append(rows, token, speaking)
        said = rows.said + speaking
        wants = (token == ids.img) & (rows.images < limits.images)
        stray = (token == ids.img) & (limits.images > 0)  # where none may be drawn it is a word
        over = (token == ids.im_end) | stray | (said >= limits.text)
        after = jnp.where(wants, IMAGE, jnp.where(over, DONE, TEXT))
        status = jnp.where(speaking, after, rows.status)
        goes_on = speaking & (status == TEXT)
        where = jnp.where(goes_on, rows.position, total)[:, None]
        x = bound.embed(token[:, None])
        hidden, caches = _understand(model, params, x, where, rows.caches)
        logits = bound.text_logits(hidden[:, 0])
        return rows.replace(
            caches=caches,
            position=rows.position + goes_on,
            status=status,
            said=said,
            logits=jnp.where(goes_on[:, None], logits, rows.logits),
        )

    return jax.lax.while_loop(lambda rows: jnp.any(rows.status == TEXT), step, rows)


def _draw(
    model: LatentUM,
    params: Params,
    rows: Rows,
    keys: jax.Array,
    ids: SpecialIds,
    limits: Limits,
    sampling: Sampling,
) -> Rows:
    """Image phase: draws for the rows that want an image, then recaches it."""
    bound = model.bind({"params": params})
    drawing = rows.status == IMAGE
    frame = bound.embed(jnp.asarray([ids.img, ids.img_end]))
    ends = jnp.broadcast_to(frame[:, None, None], (2, len(drawing), 1, frame.shape[-1]))
    codes, caches = draw_tokens(
        model, params, rows.caches, ends[0], rows.position, drawing, keys, sampling
    )
    b, length, _ = codes.shape
    x = jnp.concatenate([ends[0], bound.show(codes), ends[1]], axis=1)
    where = rows.position[:, None] + jnp.arange(length + 2)
    where = jnp.where(drawing[:, None], where, caches[0].length)
    hidden, caches = _understand(model, params, x, where, caches)
    logits = bound.text_logits(hidden[:, -1])
    rows = _append(rows, jnp.full(b, ids.img_end, jnp.int32), drawing)
    slot = jnp.where(drawing, rows.images, rows.codes.shape[1])
    after = jnp.where(rows.images + 1 < limits.steps, TEXT, DONE)
    return rows.replace(
        caches=caches,
        position=rows.position + drawing * (length + 2),
        status=jnp.where(drawing, after, rows.status),
        said=jnp.where(drawing, 0, rows.said),
        logits=jnp.where(drawing[:, None], logits, rows.logits),
        codes=rows.codes.at[jnp.arange(b), slot].set(codes, mode="drop"),
        images=rows.images + drawing,
    )
