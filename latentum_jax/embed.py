"""Embeddings of texts and of images by a model of one's own, many at a time."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from latentum_jax.eval.batches import padded_batches
from latentum_jax.latentumm.represent import image_states, text_states
from latentum_jax.pretrained import LatentUM

BATCH = 32
_text_states = jax.jit(text_states, static_argnums=0)
_image_states = jax.jit(image_states, static_argnums=(0, 3))


def text_latents(model: LatentUM, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Mean hidden states of raw texts (see `latentumm.represent`).

    Raises ValueError where one has no tokens, or more than the context.
    """
    tokens = [model.tokenizer.encode(text) for text in texts]
    if empty := [i for i, own in enumerate(tokens) if not own]:
        raise ValueError(f"text {empty[0]} is empty, expected words")

    def states(batch: Sequence[Sequence[int]]) -> jax.Array:
        padded, lengths = model.prompter.pad(batch, 0)
        valid = jnp.arange(padded.shape[1]) < lengths[:, None]
        return _text_states(model.model, model.params, padded, valid)

    return in_batches(states, tokens)


def image_latents(model: LatentUM, codes: np.ndarray) -> Float[np.ndarray, "N D"]:
    """Mean hidden states of latent images [N L C], each read alone."""
    run = functools.partial(_image_states, model.model, model.params)
    return in_batches(lambda batch: run(jnp.asarray(np.stack(batch)), model.ids), codes)


def in_batches(make: Callable[[list], jax.Array], items: Sequence) -> np.ndarray:
    """What `make` gives of so many items at once, [N ...] of all of them."""
    made = []
    for batch, real in padded_batches(items, min(BATCH, len(items))):
        made.append(np.asarray(make(batch))[:real])
    return np.concatenate(made)
