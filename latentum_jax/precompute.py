"""Pictures encoded once: their codes, and latents for a decoder, in array_record shards.

The ViT and the quantizer are frozen in `mome`, `sft` and `pixel_decoder`, and the VAE is too: what
they make of a picture is the same in every epoch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tqdm import tqdm

from latentum_jax.data.faults import BadSample, Faults, blaming
from latentum_jax.data.interleaved import Row
from latentum_jax.data.pictures import Pictures
from latentum_jax.data.records import RecordWriter
from latentum_jax.decoder.pixel_decoder import PixelDecoder as Net
from latentum_jax.generate.prompt import encode_images
from latentum_jax.images import see, square
from latentum_jax.models.latentum import Params
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.train.data import open_texts
from latentum_jax.train.stages.decoder import unit

SHARD = 4096  # samples


def precompute(
    config: ConfigDict,
    model: LatentUM,
    decoder: PixelDecoder | None,
    out: Path,
    *,
    batch: int,
    shard: int = SHARD,
) -> int:
    """Encodes the data of a recipe (webdataset, tfds, images) into a folder that `data.source`
    "records" reads; goes on where it stopped. Returns how many rows there are.

    A row has `codes` int16 [L C], of a text with a picture also `text` (UTF-8), and with a
    `decoder` the VAE's `mean` and `log_variance` float16 [h w c]. A broken sample is passed over,
    written into bad_samples.jsonl, and counted up to `data.max_bad`.

    Raises ValueError where the source or the folder cannot be used.
    """
    source = _open(config.data)
    about = "latents and codes" if decoder else "codes"
    writer = RecordWriter(out, about=about, made_by=made_by(model, decoder))
    faults = Faults(out / "bad_samples.jsonl", config.data.max_bad)
    encode = Encoder(model, decoder, batch)
    begun = len(writer.said["shards"])  # of `shard` samples each, whatever was broken among them
    total = -(-len(source) // shard)
    for number in tqdm(range(begun, total), initial=begun, total=total, unit="shard"):
        places = range(number * shard, min(len(source), (number + 1) * shard))
        writer.write_shard(encode.rows(_samples(source, places, encode, faults)))
    writer.finish()
    return writer.done()


def made_by(model: LatentUM, decoder: PixelDecoder | None) -> str:
    """Whose codes these are: a digest of the weights that make them."""
    parts: list[Params] = [{k: model.params[k] for k in ("vision", "quantizer")}]
    if decoder is not None:
        parts.append({"vae": decoder.params["vae"]})
    digest = hashlib.sha256()
    for part in parts:
        for name, value in sorted(flatten_dict(part, sep="/").items()):
            digest.update(name.encode())
            digest.update(np.asarray(value, order="C").tobytes())
    return digest.hexdigest()


class Encoder:
    """Samples with their pixels to rows, `batch` pictures at a time in one program."""

    def __init__(self, model: LatentUM, decoder: PixelDecoder | None, batch: int):
        self.model, self.decoder, self.batch = model, decoder, batch

    def seen(self, where: object, image: Any) -> Row:
        """A picture as the ViT and the VAE have it. Raises BadSample where it cannot be read."""
        with blaming(where):
            row = {"seen": see(image, self.model.config.vision)}
            if self.decoder is not None:
                side, canvas = self.decoder.config.image_size, self.model.config.vision.canvas
                row["pixels"] = square(image, side, canvas=canvas)
            return row

    def rows(self, samples: Iterator[Row]) -> Iterator[Row]:
        """What is kept of each."""
        some: list[Row] = []
        for sample in samples:
            some.append(sample)
            if len(some) == self.batch:
                yield from self._encoded(some)
                some = []
        if some:
            yield from self._encoded(some)

    def _encoded(self, some: Sequence[Row]) -> Iterator[Row]:
        filled = [*some, *[some[0]] * (self.batch - len(some))]  # one shape, one program
        seen = jnp.asarray(np.stack([row["seen"] for row in filled]))
        codes = encode_images(self.model.model, self.model.params, seen)[1]
        made = {"codes": np.asarray(codes, np.int16)}
        if self.decoder is not None:
            pixels = jnp.asarray(np.stack([row["pixels"] for row in filled]))
            moments = latent_moments(self.decoder.model, self.decoder.params, pixels)
            names = ("mean", "log_variance")
            made |= {n: np.asarray(x, np.float16) for n, x in zip(names, moments, strict=True)}
        for place, row in enumerate(some):
            text = {"text": row["text"]} if "text" in row else {}
            yield {**text, **{name: x[place] for name, x in made.items()}}


@jax.jit(static_argnames="model")
def latent_moments(model: Net, params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance [B h w c] of the VAE's z of 8-bit pixels."""
    return model.apply({"params": params}, unit(pixels), method="moments")


def _open(data: ConfigDict) -> Any:
    if data.source == "images":
        return Pictures(data.path)
    if data.source in ("webdataset", "tfds"):
        return open_texts(data)
    raise ValueError(
        f"data.source is {data.source!r}, expected 'webdataset', 'tfds' or 'images' to encode"
    )


def _samples(source: Any, places: range, encode: Encoder, faults: Faults) -> Iterator[Row]:
    for place in places:
        try:
            found = source[place]
            if isinstance(found, Path):
                yield encode.seen(str(found), found)
                continue
            text = np.frombuffer(found.text.encode(), np.uint8)
            yield {**encode.seen(found.where, found.image), "text": text}
        except BadSample as error:
            faults.note(error)
