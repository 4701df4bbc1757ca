"""Embeddings of texts and of images by a model of one's own, many at a time."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from latentum_jax.config import SentenceConfig
from latentum_jax.convert.bert import Sentences
from latentum_jax.data.embeddings import write_side
from latentum_jax.data.lines import Lines
from latentum_jax.data.pictures import Pictures
from latentum_jax.eval.batches import padded_batches
from latentum_jax.images import ImageLike
from latentum_jax.latentumm.represent import image_states, text_states
from latentum_jax.latentumm.sentences import SentenceEncoder
from latentum_jax.models.latentum import Params
from latentum_jax.pretrained import LatentUM
from latentum_jax.prompter import PROMPT_STEP

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
    return in_batches(lambda batch: run(jnp.asarray(np.stack(batch)), model.ids), list(codes))


def in_batches(make: Callable[[list], Any], items: Sequence) -> np.ndarray:
    """What `make` gives of so many items at once, [N ...] of all of them."""
    made = []
    for batch, real in padded_batches(items, min(BATCH, len(items))):
        made.append(np.asarray(make(batch))[:real])
    return np.concatenate(made)


def sentence_embeddings(encoder: Sentences, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Embeddings of texts by a sentence encoder, each as if it were alone."""
    tokens = [encoder.tokenizer.encode(text).ids for text in texts]

    def embeddings(batch: Sequence[Sequence[int]]) -> jax.Array:
        longest = max(map(len, batch))
        width = min(-(-longest // PROMPT_STEP) * PROMPT_STEP, encoder.config.max_positions)
        padded, valid = np.zeros((len(batch), width), np.int32), np.zeros((len(batch), width), bool)
        for row, mask, own in zip(padded, valid, batch, strict=True):
            row[: len(own)], mask[: len(own)] = own, True
        return _sentences(encoder.config, encoder.params, padded, valid)

    return in_batches(embeddings, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _sentences(
    config: SentenceConfig, params: Params, tokens: jax.Array, valid: jax.Array
) -> jax.Array:
    return SentenceEncoder(config).apply({"params": params}, tokens, valid)


def image_features(model: LatentUM, images: Sequence[ImageLike]) -> Float[np.ndarray, "N F"]:
    """Mean over the visual tokens of the ViT's features V of pictures."""
    return in_batches(lambda batch: model.encode(batch)[0].mean(axis=1), images)


def embed(
    out: Path,
    *,
    texts: Path | None,
    images: Path | None,
    sentences: Sentences | None,
    model: LatentUM | None,
) -> dict[str, tuple[int, int]]:
    """Writes `out`/text.npz and image.npz, as `data.embeddings` reads them, of a file of texts and
    of a folder of pictures; returns how many there are of each and how wide they are.

    Texts go through `sentences` where it is given, else through `model`, as pictures do.

    Raises ValueError where there is nothing to embed, or whatever is read is broken.
    """
    sizes = {}
    if texts is not None:
        ids, words = read_texts(texts)
        made = sentence_embeddings(sentences, words) if sentences else text_latents(model, words)
        write_side(out / "text.npz", ids, made)
        sizes["text"] = made.shape
    if images is not None:
        files = Pictures(images).files
        made = image_features(model, files)
        names = [file.relative_to(images).with_suffix("").as_posix() for file in files]
        write_side(out / "image.npz", names, made)
        sizes["image"] = made.shape
    if not sizes:
        raise ValueError("nothing to embed, expected texts, images or both")
    return sizes


def read_texts(file: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of a JSONL, {"id", "text"} a line.

    Raises ValueError, naming the line, where it is another.
    """
    lines, ids, texts = Lines(file), [], []
    for i in range(len(lines)):
        entry = lines[i]
        try:
            name, text = str(entry["id"]), entry["text"]
            if not isinstance(text, str) or not text.strip():
                raise TypeError(f"text is {text!r}")
        except (KeyError, TypeError) as error:
            raise ValueError(f"{lines.where(i)}: expected an id and a text ({error})") from error
        ids.append(name)
        texts.append(text)
    return ids, texts
