"""Prompts with pictures: `<image>` in a text becomes slots, slots become embeddings of images, seen
or latent."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from latentum_jax.images import normalise
from latentum_jax.kept import program
from latentum_jax.models.latentum import LatentUM, Params

PLACE, SLOT = "<image>", "<IMG_CONTEXT>"


def with_slots(text: str, counts: Sequence[int]) -> str:
    """Text with `<img>`, `counts[i]` slots and `</img>` in the place of its i-th `<image>`.

    Raises ValueError where the text has another number of places, or slots of its own.
    """
    pieces = text.split(PLACE)
    if len(pieces) != len(counts) + 1:
        raise ValueError(
            f"{PLACE}, which stands for an image, is in {len(pieces) - 1} places of the prompt, "
            f"expected {len(counts)}"
        )
    if SLOT in text:
        raise ValueError(f"the prompt holds {SLOT}, which stands for a feature of an image")
    places = [f"<img>{SLOT * count}</img>" for count in counts]
    return "".join(a + b for a, b in zip(pieces, [*places, ""], strict=True))


@program(static=("model", "quantized"))
def embed_images(
    model: LatentUM, params: Params, pixels: UInt8[Array, "N P P 3"], quantized: bool
) -> Float[Array, "N L D"]:
    """Images as the understanding branch reads them: mlp1 of their features, or up_proj of z_q."""
    bound = model.bind({"params": params})
    features = bound.encode_image(normalise(pixels))
    if quantized:
        return bound.understand_quantized(bound.quantize(features).z_q)
    return bound.understand(features)


@program(static=("model",))
def embed_prompt(
    model: LatentUM,
    params: Params,
    tokens: Int[Array, "B T"],
    is_slot: Bool[Array, "B T"],
    shown: Float[Array, "N L D"],
) -> Float[Array, "B T D"]:
    """Prompts with embedded images in their slots: those of the first row first, and so on."""
    bound = model.bind({"params": params})
    index = jnp.maximum(jnp.cumsum(is_slot.reshape(-1)) - 1, 0).reshape(is_slot.shape)
    slots = shown.reshape(-1, shown.shape[-1])[index]
    return jnp.where(is_slot[..., None], slots, bound.embed(tokens))


@program(static=("model",))
def encode_images(
    model: LatentUM, params: Params, pixels: UInt8[Array, "N P P 3"]
) -> tuple[Float[Array, "N L F"], Int[Array, "N L C"]]:
    """Features V of images, and their codes."""
    bound = model.bind({"params": params})
    features = bound.encode_image(normalise(pixels))
    return features, bound.quantize(features).codes


@program(static=("model",))
def show_codes(
    model: LatentUM, params: Params, codes: Int[Array, "N L C"]
) -> Float[Array, "N L D"]:
    """Latent images as the context holds them, visual_projector(z_q)."""
    return model.bind({"params": params}).show(codes)


@program(static=("model",))
def look_up_codes(
    model: LatentUM, params: Params, codes: Int[Array, "*b C"]
) -> Float[Array, "*b E"]:
    """z_q of codes."""
    return model.bind({"params": params}).look_up(codes)
