"""Interleaved reasoning with something else in the place of recaching (section 3.3).

Either the generation branch's own cache entries stay (`interleave_kept`), or the image leaves the
model, comes back as what it looks like, and is read as any picture is (`interleave_seen`). Text and
images are drawn as by `interleave`, to which both are to be compared.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from latentum_jax.generate.rows import (
    DONE,
    RECACHE,
    Limits,
    Room,
    RowLimits,
    Rows,
    for_each,
    goes_on,
    recache,
    settle,
    start,
    turn,
)
from latentum_jax.generate.sampling import Sampling, row_keys
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import Stream
from latentum_jax.tokenizer import SpecialIds

# Codes [R L C] that were drawn and the rows [R] they belong to; their embeddings [R L D].
See = Callable[[np.ndarray, np.ndarray], np.ndarray]


@functools.partial(jax.jit, static_argnames=("model", "ids", "limits", "text", "codes"))
def interleave_kept(
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
    """`interleave` without recaching, see `keep`."""
    rows = _begin(model, params, prompt, lengths, seeds, limits)
    close = functools.partial(keep, model, params, ids=ids)

    def go_on(rows: Rows) -> Rows:
        return settle(close, turn(model, params, rows, ids=ids, text=text, codes=codes))

    return jax.lax.while_loop(lambda rows: jnp.any(rows.status != DONE), go_on, rows)


def interleave_seen(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    see: See,
    ids: SpecialIds,
    limits: Limits,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """`interleave` in which each image enters the context as `see` has it, between `<img>` and
    `</img>`: rows wait until all that are not done have drawn one."""
    rows = begin(model, params, prompt, lengths, seeds, limits=limits)
    while True:
        rows = until_drawn(model, params, rows, ids=ids, text=text, codes=codes)
        (waiting,) = np.nonzero(np.asarray(rows.status) == RECACHE)
        if not len(waiting):
            return rows
        drawn = np.asarray(rows.codes)[waiting, np.asarray(rows.images)[waiting]]
        seen = np.zeros((len(rows.status), drawn.shape[1], prompt.shape[2]), np.float32)
        seen[waiting] = see(drawn, waiting)
        rows = look(model, params, rows, jnp.asarray(seen), ids=ids)


def keep(model: LatentUM, params: Params, rows: Rows, *, ids: SpecialIds) -> Rows:
    """Closes whole images as they are in the cache: `</img>` alone is understood.

    Of an image the cache holds all but the last visual token, behind which nothing was drawn: the
    generation branch adds it in the same pass.
    """
    bound, slots = model.bind({"params": params}), rows.caches[0].length
    whole = rows.status == RECACHE
    last = rows.position + rows.codes.shape[2]
    at = [Placement.causal(jnp.where(whole, where, slots)[:, None]) for where in (last, last + 1)]
    end = bound.embed(jnp.full((len(whole), 1), ids.img_end))
    stream = Stream({"gen": at[0], "und": at[1]})
    hidden, caches = bound.hidden({"gen": rows.x, "und": end}, stream, rows.caches)
    logits = jnp.where(whole[:, None], bound.text_logits(hidden["und"][:, 0]), rows.logits)
    return goes_on(rows.replace(caches=caches, logits=logits), whole, ids=ids)


def _begin(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    limits: Limits | tuple[Limits, ...],
) -> Rows:
    b, t, _ = prompt.shape
    each = for_each(limits, b)
    room = Room.of(t, each, model.config.vision.num_tokens)
    return start(model, params, prompt, lengths, row_keys(seeds), RowLimits.of(each), room)


begin = jax.jit(_begin, static_argnames=("model", "limits"))


@functools.partial(
    jax.jit, static_argnames=("model", "ids", "text", "codes"), donate_argnames="rows"
)
def until_drawn(
    model: LatentUM,
    params: Params,
    rows: Rows,
    *,
    ids: SpecialIds,
    text: Sampling,
    codes: Sampling,
) -> Rows:
    """Takes rows further until every one is done or waits with a whole image."""
    further = lambda rows: turn(model, params, rows, ids=ids, text=text, codes=codes)  # noqa: E731
    waits = lambda rows: (rows.status == DONE) | (rows.status == RECACHE)  # noqa: E731
    return jax.lax.while_loop(lambda rows: ~jnp.all(waits(rows)), further, rows)


@functools.partial(jax.jit, static_argnames=("model", "ids"), donate_argnames="rows")
def look(
    model: LatentUM, params: Params, rows: Rows, seen: Float[Array, "B L D"], *, ids: SpecialIds
) -> Rows:
    """Reads `seen` in the place of what the waiting rows have drawn."""
    return settle(functools.partial(recache, model, params, ids=ids, seen=seen), rows)
