"""What a unified model makes of a text, and of an image that it has drawn: mean hidden states.

The hidden states are the understanding branch's, behind the final norm. A generated image is read
back as its codes alone, with nothing before them that would say what they show.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from latentum_jax.kernels.placement import Placement
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import Stream
from latentum_jax.tokenizer import SpecialIds


def mean_over(
    x: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B D"], Int[Array, "B"]]:
    """Mean over the places of the mask, in fp32, and how many there are; 0 of none."""
    count = jnp.sum(mask, axis=1)
    total = jnp.sum(jnp.where(mask[..., None], x.astype(jnp.float32), 0), axis=1)
    return total / jnp.maximum(count, 1)[:, None], count


def text_states(
    model: LatentUM, params: Params, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Mean hidden state over the tokens of raw texts, those that are `valid`."""
    x = _apply(model, params, "embed", tokens)
    return mean_over(_hidden(model, params, x, valid), valid)[0]


def image_states(
    model: LatentUM, params: Params, codes: Int[Array, "B L C"], ids: SpecialIds
) -> Float[Array, "B D"]:
    """Mean hidden state over the visual tokens of images, each read alone as `<img>` codes
    `</img>`."""
    b, length, _ = codes.shape
    shown = _apply(model, params, "show", codes)
    ends = _apply(
        model, params, "embed", jnp.broadcast_to(jnp.asarray([ids.img, ids.img_end]), (b, 2))
    )
    x = jnp.concatenate([ends[:, :1], shown, ends[:, 1:]], axis=1)
    every = jnp.ones((b, length + 2), bool)
    return _hidden(model, params, x, every)[:, 1:-1].astype(jnp.float32).mean(1)


def _hidden(
    model: LatentUM, params: Params, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    at = Placement.causal(jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]), valid)
    hidden, _ = _apply(model, params, "hidden", {"und": x}, Stream({"und": at}))
    return hidden["und"]


def _apply(model: LatentUM, params: Params, method: str, *args: object) -> object:
    return model.apply({"params": params}, *args, method=method)
