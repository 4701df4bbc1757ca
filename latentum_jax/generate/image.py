"""Drawing an image: L visual tokens of C codes, by the generation branch and the vision head."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from latentum_jax.generate.sampling import Sampling, fold, row_keys, sample
from latentum_jax.models.attention import Placement
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import KVCache, Stream
from latentum_jax.tokenizer import SpecialIds


def sample_codes(
    model: LatentUM,
    params: Params,
    hidden: Float[Array, "R D"],
    keys: jax.Array,
    sampling: Sampling,
    guidance: float,
) -> Int[Array, "B C"]:
    """The C codes of one visual token, one after another (section 3.1.3).

    With guidance above 1 the rows are B conditional ones and then B unconditional ones, and
    logits = uncond + guidance x (cond - uncond); both then see the code that was drawn.
    """
    bound = model.bind({"params": params})
    head = bound.head
    guided = guidance > 1

    def step(
        carry: tuple[Array, KVCache], index: Int[Array, ""]
    ) -> tuple[tuple[Array, KVCache], Array]:
        x, cache = carry
        logits, cache = head.step(x, index, cache)
        if guided:
            cond, uncond = jnp.split(logits, 2)
            logits = uncond + guidance * (cond - uncond)
        code = sample(fold(keys, index), logits, sampling)
        shown = jnp.concatenate([code, code]) if guided else code
        return (head.embed_code(shown, index).astype(x.dtype), cache), code

    count = model.config.quantizer.num_codebooks
    start = (hidden, head.empty_cache(hidden.shape[0]))
    _, codes = jax.lax.scan(step, start, jnp.arange(count))
    return codes.T


def draw_tokens(
    model: LatentUM,
    params: Params,
    cache: KVCache,
    position: Int[Array, "R"],
    active: Bool[Array, "R"],
    keys: jax.Array,
    img: int,
    sampling: Sampling,
    guidance: float = 1.0,
) -> tuple[Int[Array, "B L C"], KVCache]:
    """Runs `<img>` and then each drawn token through the generation branch, from `position` on.

    R is B rows, or 2B under guidance (see `sample_codes`). Rows that are not active leave their
    cache alone, and their codes mean nothing.
    """
    bound = model.bind({"params": params})
    rows, length = position.shape[0], cache.k.shape[2]
    first = bound.embed(jnp.full((rows, 1), img))

    def step(
        carry: tuple[Array, KVCache], index: Int[Array, ""]
    ) -> tuple[tuple[Array, KVCache], Array]:
        x, cache = carry
        where = jnp.where(active, position + index, length)[:, None]
        hidden, cache = bound.hidden({"gen": x}, Stream({"gen": Placement.causal(where)}), cache)
        token_keys = fold(keys, position[: keys.shape[0]] + index)
        codes = sample_codes(model, params, hidden["gen"][:, 0], token_keys, sampling, guidance)
        shown = bound.show(codes)[:, None]
        shown = jnp.concatenate([shown, shown]) if guidance > 1 else shown
        return (shown.astype(x.dtype), cache), codes

    steps = jnp.arange(model.config.vision.num_tokens)
    (_, cache), codes = jax.lax.scan(step, (first, cache), steps)
    return codes.transpose(1, 0, 2), cache


@functools.partial(jax.jit, static_argnames=("model", "ids", "sampling", "guidance"))
def generate(
    model: LatentUM,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    ids: SpecialIds,
    sampling: Sampling,
    guidance: float,
) -> Int[Array, "B L C"]:
    """Text to codes as one program (section 3.2): the raw prompt, `<img>`, L visual tokens."""
    prompt = model.bind({"params": params}).embed(tokens)
    return generate_after(
        model, params, prompt, lengths, seeds, ids=ids, sampling=sampling, guidance=guidance
    )


@functools.partial(jax.jit, static_argnames=("model", "ids", "sampling", "guidance"))
def generate_after(
    model: LatentUM,
    params: Params,
    prompt: Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    ids: SpecialIds,
    sampling: Sampling,
    guidance: float,
) -> Int[Array, "B L C"]:
    """The same after an embedded prompt, which may hold pictures.

    Prompts are padded on the right. Under guidance every row has an unconditional twin whose
    prompt tokens are pads, attended like the prompt itself.
    """
    keys = row_keys(seeds)
    bound = model.bind({"params": params})
    if guidance > 1:
        pads = bound.embed(jnp.full(prompt.shape[:2], ids.pad))
        prompt = jnp.concatenate([prompt, pads])
        lengths = jnp.concatenate([lengths, lengths])
    rows, width, _ = prompt.shape
    total = width + model.config.vision.num_tokens
    cache = KVCache.empty(model.config.language, rows, total, model.dtype)
    places = jnp.arange(width)[None]
    where = jnp.where(places < lengths[:, None], places, total)
    stream = Stream({"und": Placement.causal(where)})
    _, cache = bound.hidden({"und": prompt}, stream, cache)
    active = jnp.ones(rows, bool)
    codes, _ = draw_tokens(model, params, cache, lengths, active, keys, ids.img, sampling, guidance)
    return codes
