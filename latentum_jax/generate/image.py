"""Drawing an image: L visual tokens of C codes, by the generation branch and the vision head."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from latentum_jax.generate.sampling import Sampling, fold, log_prob, row_keys, sample
from latentum_jax.kept import program
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.caches import Caches
from latentum_jax.models.latentum import LatentUM, Params, cache_kind
from latentum_jax.models.mome import Stream, empty_caches
from latentum_jax.models.vision_head import Shown
from latentum_jax.tokenizer import SpecialIds


def sample_codes(
    model: LatentUM,
    params: Params,
    hidden: Float[Array, "R D"],
    keys: jax.Array,
    sampling: Sampling,
    guidance: float,
    scored: bool = False,
) -> tuple[Int[Array, "B C"], Float[Array, "B C"] | None]:
    """The C codes of one visual token, one after another (section 3.1.3), and where they are to be
    `scored` how likely each was (see `sampling.log_prob`).

    With guidance above 1 the rows are B conditional ones and then B unconditional ones, and
    logits = uncond + guidance x (cond - uncond); both then see the code that was drawn.
    """
    bound = model.bind({"params": params})
    head = bound.head
    guided = guidance > 1

    def step(
        carry: tuple[Shown, Caches], index: Int[Array, ""]
    ) -> tuple[tuple[Shown, Caches], tuple[Array, Array | None]]:
        x, caches = carry
        logits, caches = head.step(x, index, caches)
        if guided:
            cond, uncond = jnp.split(logits, 2)
            logits = uncond + guidance * (cond - uncond)
        code = sample(fold(keys, index), logits, sampling)
        score = log_prob(logits, code, sampling.temperature) if scored else None
        shown = jnp.concatenate([code, code]) if guided else code
        return (head.follow(shown, index), caches), (code, score)

    count = model.config.quantizer.num_codebooks
    start = (head.begin(hidden), head.empty_caches(hidden.shape[0], cache_kind(params)))
    _, (codes, scores) = jax.lax.scan(step, start, jnp.arange(count))
    return codes.T, None if scores is None else scores.T


def draw_token(
    model: LatentUM,
    params: Params,
    caches: Caches,
    x: Float[Array, "R 1 D"],
    position: Int[Array, "R"],
    keys: jax.Array,
    sampling: Sampling,
    guidance: float = 1.0,
    scored: bool = False,
    filled: bool = False,
) -> tuple[Int[Array, "B C"], Float[Array, "B C"] | None, Float[Array, "R 1 D"], Caches]:
    """The codes of the visual token behind x, the embedded `<img>` or the token before, which the
    generation branch puts into the caches at `position`, and their scores (see `sample_codes`);
    and the embedding of the new one.

    R is B rows, or 2B under guidance (see `sample_codes`). A row whose position is outside its
    cache leaves it alone, and its codes mean nothing. `filled`: the caches hold most of what they
    can.
    """
    bound = model.bind({"params": params})
    held = "most" if filled else "some"
    stream = Stream({"gen": Placement.causal(position[:, None])}, held=held)
    hidden, caches = bound.hidden({"gen": x}, stream, caches)
    base = hidden["gen"][:, 0]
    codes, scores = sample_codes(model, params, base, keys, sampling, guidance, scored)
    shown = bound.show(codes)[:, None]
    shown = jnp.concatenate([shown, shown]) if guidance > 1 else shown
    return codes, scores, shown.astype(x.dtype), caches


def generate(
    model: LatentUM,
    params: Params,
    prompt: Int[Array, "B T"] | Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    seeds: UInt[Array, "B"],
    *,
    ids: SpecialIds,
    sampling: Sampling,
    guidance: float,
) -> tuple[Int[Array, "B L C"], Float[Array, "B L E"]]:
    """A prompt to codes and z_q (section 3.2): the raw prompt, `<img>`, L visual tokens.

    The prompt is of token ids, or embedded, and may then hold pictures; rows are padded on the
    right. Under guidance every row has an unconditional twin whose prompt tokens are pads, attended
    like the prompt itself. Two programs: the prompt goes through the understanding branch, whose
    weights the second, all of whose time is the loop over visual tokens, is not given.
    """
    guided = guidance > 1
    caches, first = prefill(model, params, prompt, lengths, ids=ids, guided=guided)
    codes, z_q, _, _ = draw(
        model,
        params,
        caches,
        first,
        jnp.concatenate([lengths, lengths]) if guided else lengths,
        seeds,
        sampling=sampling,
        guidance=guidance,
    )
    return codes, z_q


@program(static=("model", "ids", "guided"))
def prefill(
    model: LatentUM,
    params: Params,
    prompt: Int[Array, "B T"] | Float[Array, "B T D"],
    lengths: Int[Array, "B"],
    *,
    ids: SpecialIds,
    guided: bool,
) -> tuple[Caches, Float[Array, "R 1 D"]]:
    """Caches that hold the prompts, with room for an image, and the embedding of `<img>`.

    R is B, or 2B where rows are to be guided (see `generate`).
    """
    bound = model.bind({"params": params})
    pads = bound.embed(jnp.full(prompt.shape[:2], ids.pad))
    prompt = bound.embed(prompt) if prompt.ndim == 2 else prompt
    if guided:
        prompt = jnp.concatenate([prompt, pads])
        lengths = jnp.concatenate([lengths, lengths])
    rows, width, _ = prompt.shape
    total = width + model.config.vision.num_tokens
    caches = empty_caches(model.config.language, rows, total, model.dtype, cache_kind(params))
    places = jnp.arange(width)[None]
    where = jnp.where(places < lengths[:, None], places, caches[0].length)
    stream = Stream({"und": Placement.causal(where)}, held="nothing")
    _, caches = bound.hidden({"und": prompt}, stream, caches)
    return caches, bound.embed(jnp.full((rows, 1), ids.img))


@program(static=("model", "sampling", "guidance", "scored"), donate=("caches",))
def draw(
    model: LatentUM,
    params: Params,
    caches: Caches,
    first: Float[Array, "R 1 D"],
    position: Int[Array, "R"],
    seeds: UInt[Array, "B"],
    *,
    sampling: Sampling,
    guidance: float,
    scored: bool = False,
) -> tuple[Int[Array, "B L C"], Float[Array, "B L E"], Float[Array, "B L C"] | None, Caches]:
    """Codes and z_q of an image for every row, after what its cache holds up to `position`, and the
    codes' scores (see `sample_codes`).

    The caches are written in place: what is given is used up, what returns holds the image too.
    """
    keys = row_keys(seeds)

    def step(
        carry: tuple[Array, Caches], index: Int[Array, ""]
    ) -> tuple[tuple[Array, Caches], tuple[Array, Array | None]]:
        x, caches = carry
        at = position + index
        token_keys = fold(keys, at[: len(seeds)])
        drawn = draw_token(
            model, params, caches, x, at, token_keys, sampling, guidance, scored, filled=True
        )
        codes, scores, x, caches = drawn
        return (x, caches), (codes, scores)

    steps = jnp.arange(model.config.vision.num_tokens)
    (_, caches), made = jax.lax.scan(step, (first, caches), steps)
    codes, scores = jax.tree.map(lambda x: x.transpose(1, 0, 2), made)
    return codes, model.bind({"params": params}).look_up(codes), scores, caches
