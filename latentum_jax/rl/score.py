"""How likely a policy finds what was done: exact log-probabilities of text tokens and codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from latentum_jax.generate.sampling import log_prob
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.train.losses import map_chunks
from latentum_jax.train.stages.sequence import Batch, apply, dual_sequence


def policy_scores(
    model: LatentUM,
    params: Params,
    batch: Batch,
    *,
    img: int,
    temperature: float,
    speaks: bool,
    chunk: int = 0,
) -> Float[Array, "R M"]:
    """log pi of every text token and code of rows (`data.interleaved`), one pass over U and G.

    M: where the policy `speaks` the T - 1 tokens behind the first (what is no label means nothing),
    then the codes [G L C] of the targets. With `chunk` above 0 logits of about so many tokens are
    in memory at once, in the backward pass as well.
    """
    made = dual_sequence(model, params, batch, jax.random.key(0), img=img, und_learns=speaks)
    hidden, codes = made
    found = []
    if speaks:

        def of_text(hidden: Array, labels: Array) -> Array:
            logits = apply(model, params, "text_logits", hidden)
            return log_prob(logits, jnp.maximum(labels, 0), temperature)

        states, labels = hidden["und"][:, :-1], batch["labels"][:, 1:]
        found.append(map_chunks(of_text, (states, labels), chunk))

    def of_codes(hidden: Array, codes: Array) -> Array:
        flat = codes.reshape(-1, codes.shape[-1])
        logits = apply(model, params, "code_logits", hidden.reshape(len(flat), -1), flat)
        return log_prob(logits, flat, temperature).reshape(codes.shape)

    r, g, length, count = codes.shape
    drawn = map_chunks(of_codes, (hidden["gen"], codes.reshape(r, g * length, count)), chunk)
    found.append(drawn.reshape(r, -1))
    return jnp.concatenate(found, axis=1)


def policy_places(batch: Batch, shape: tuple[int, ...], speaks: bool) -> Bool[Array, "R M"]:
    """Which of the M places of `policy_scores` hold what the policy did; `shape` is that of its
    codes, [R G L C]."""
    drawn = jnp.broadcast_to(batch["target_valid"][:, :, None, None], shape)
    found = [batch["labels"][:, 1:] >= 0] if speaks else []
    return jnp.concatenate([*found, drawn.reshape(shape[0], -1)], axis=1)


# `policy_scores` as a program of its own.
score = jax.jit(policy_scores, static_argnames=("model", "img", "temperature", "speaks", "chunk"))
