"""How fast every path runs on the present backend, with random weights of a given size."""

import dataclasses
import functools
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from tqdm import tqdm

from latentum_jax.config import (
    DecoderConfig,
    HeadConfig,
    LanguageConfig,
    LatentUMConfig,
    VisionConfig,
)
from latentum_jax.decoder import folder as decoder_folder
from latentum_jax.decoder import pixel_decoder
from latentum_jax.generate.image import generate
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import encode_images
from latentum_jax.generate.rows import Limits, Rows
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, Params, unstack_here
from latentum_jax.models.layers import Dtype
from latentum_jax.tokenizer import SpecialIds

# The size at which the published code was timed on a CPU.
SMALL = LatentUMConfig(
    vision=VisionConfig(image_size=224, hidden_size=64, num_layers=2, num_heads=2, mlp_size=256),
    language=LanguageConfig(
        vocab_size=4096,
        hidden_size=512,
        num_layers=8,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        mlp_size=1536,
    ),
    head=HeadConfig(num_heads=8),
)
SIZES = {"tiny": LatentUMConfig.tiny(), "small": SMALL, "full": LatentUMConfig()}
DECODERS = {"tiny": DecoderConfig.tiny(), "full": DecoderConfig()}
PROMPT, PADDED = 12, 32  # tokens of a prompt, and of the room it lies in
ANSWER = 64  # tokens
PLAN = Limits(steps=4, images=4, text=1)  # a word, which is `<img>`, and an image, four times
GUIDANCE = 3.0
STEPS = 25  # of the pixel decoder
PATHS = ("encode", "generate", "answer", "plan", "decode")
NEVER = 1 << 30  # id of a token that no model says, so that nothing ends early


@dataclasses.dataclass(frozen=True)
class Job:
    """A path at a batch: `run(seed)` starts one round and returns what it will have made.

    images: made or read by a round. tokens: said or drawn by it, 0 where it has none.
    """

    path: str
    run: Callable[[int], Any]
    images: int
    tokens: int


def bench(
    size: str,
    batches: Sequence[int],
    *,
    dtype: str | None = None,
    weights: str | None = None,
    repeats: int = 3,
    paths: Sequence[str] = PATHS,
) -> dict[str, Any]:
    """Times paths at every batch: {"device", "size", "dtype", "weights", "rows"}.

    With `weights` "int8" or "fp8" the kernels that decoding reads are of 8 bits.

    A row has `path`, `batch`, `seconds` (median of `repeats` rounds after the first),
    `first_seconds` (with compilation), `seconds_per_image`, `images_per_second`,
    `tokens_per_second` and `peak_bytes`, the most memory that the device has held so far (on a CPU,
    the process).

    Raises ValueError for an unknown size or path.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, expected one of {tuple(SIZES)}")
    if unknown := set(paths) - set(PATHS):
        raise ValueError(f"paths are {sorted(unknown)}, expected some of {PATHS}")
    device = jax.devices()[0]
    dtype = dtype or ("float32" if device.platform == "cpu" else "bfloat16")
    rows = []
    with tqdm(desc="bench", unit="path") as bar:
        for jobs_at in _parts(size, jnp.dtype(dtype), weights, paths):
            for batch in batches:
                for job in (job for job in jobs_at(batch) if job.path in paths):
                    rows.append(_timed(job, batch, repeats) | {"peak_bytes": _peak(device)})
                    bar.update(1)
    told = {"device": device.device_kind, "size": size, "dtype": dtype, "weights": weights}
    return {**told, "rows": rows}


def table(results: Mapping[str, Any]) -> str:
    """The results as a Markdown table."""
    names = ("path", "batch", "seconds", "seconds_per_image", "tokens_per_second")
    lines = [
        f"{results['size']}, {results['weights'] or results['dtype']}, {results['device']}\n",
        f"| {' | '.join(name.replace('_', ' ') for name in names)} | peak |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in results["rows"]:
        values = " | ".join(str(row[name]) for name in names)
        lines.append(f"| {values} | {row['peak_bytes'] / 1e9:.2f} GB |")
    return "\n".join(lines)


def random_params(shapes: Mapping[str, tuple[int, ...]], dtype: Dtype) -> Params:
    """Weights that keep the variance of what goes through, made on the device; norms are 1."""

    def make(key: jax.Array, path: str, shape: tuple[int, ...]) -> jax.Array:
        kind = jnp.float32 if path.startswith("quantizer/") else dtype
        if path.endswith("scale"):
            return jnp.ones(shape, kind)
        if not path.endswith(("kernel", "lm_head")):
            return 0.02 * jax.random.normal(key, shape, kind)
        inputs = math.prod(shape[:-1]) if len(shape) == 4 else shape[-2]  # convolutions; the rest
        return inputs**-0.5 * jax.random.normal(key, shape, kind)

    made = jax.jit(make, static_argnums=(1, 2))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    flat = {path: made(key, path, s) for key, (path, s) in zip(keys, shapes.items(), strict=True)}
    return unflatten_dict(flat, sep="/")


def _timed(job: Job, batch: int, repeats: int) -> dict[str, Any]:
    first, *rounds = [_seconds(job, seed) for seed in range(repeats + 1)]
    seconds = statistics.median(rounds)
    values = {
        "seconds": seconds,
        "first_seconds": first,
        "seconds_per_image": seconds / job.images,
        "images_per_second": job.images / seconds,
        "tokens_per_second": job.tokens / seconds,
    }
    values = {name: float(f"{value:.4g}") for name, value in values.items()}
    return {"path": job.path, "batch": batch, **values}


def _parts(
    size: str, dtype: Dtype, weights: str | None, paths: Sequence[str]
) -> Iterator[Callable[[int], list[Job]]]:
    """What makes the jobs of a batch, for one set of weights after another: none holds two."""
    config = SIZES[size]
    params = random_params(expected_shapes(config), dtype)
    model = LatentUM(config, dtype)
    params = unstack_here(model, params, weights)
    yield functools.partial(_model_jobs, model, params)
    del params
    if size in DECODERS and "decode" in paths:
        decoder = DECODERS[size]
        params = random_params(decoder_folder.expected_shapes(decoder), dtype)
        model = pixel_decoder.PixelDecoder(decoder, dtype)
        yield functools.partial(_decoder_jobs, model, params, config.vision.num_tokens)


def _model_jobs(model: LatentUM, params: Params, batch: int) -> list[Job]:
    vision, ids = model.config.vision, SpecialIds(*[NEVER] * 6)
    side, visual = vision.image_size, vision.num_tokens
    keys = jax.random.split(jax.random.key(1), 3)
    pixels = jax.random.randint(keys[0], (batch, side, side, 3), 0, 200).astype(jnp.uint8)
    tokens = jax.random.randint(keys[1], (batch, PADDED), 0, model.config.language.vocab_size)
    # A question about one picture: its visual tokens stand in the prompt.
    shape = (batch, visual + PADDED, model.config.language.hidden_size)
    question = jax.random.normal(keys[2], shape, model.dtype)

    def encode(seed: int) -> jax.Array:
        return encode_images(model, params, pixels + jnp.uint8(seed))[1]

    def draw(seed: int) -> tuple[jax.Array, jax.Array]:
        return generate(
            model,
            params,
            tokens,
            jnp.full(batch, PROMPT),
            _seeds(seed, batch),
            ids=dataclasses.replace(ids, img=1, pad=0),
            sampling=GREEDY,
            guidance=GUIDANCE,
        )

    def reason(seed: int, params: Params, ids: SpecialIds, limits: Limits) -> Rows:
        lengths = jnp.full(batch, visual + PROMPT)
        settings = {"ids": ids, "limits": limits, "text": GREEDY, "codes": GREEDY}
        return interleave(model, params, question, lengths, _seeds(seed, batch), **settings)

    def answer(seed: int) -> jax.Array:
        return reason(seed, params, ids, Limits(steps=1, images=0, text=ANSWER)).tokens

    drawing = img_alone(params)

    def plan(seed: int) -> jax.Array:
        return reason(seed, drawing, dataclasses.replace(ids, img=0, img_end=1), PLAN).codes

    return [
        Job("encode", encode, batch, 0),
        Job("generate", draw, batch, batch * visual),
        Job("answer", answer, batch, batch * ANSWER),
        Job("plan", plan, batch * PLAN.images, batch * PLAN.images * visual),
    ]


def img_alone(params: Params) -> Params:
    """Of a model to which all words are equally likely: it says the first, greedily."""
    language = dict(params["language"])
    name = "lm_head" if "lm_head" in language else "embed_tokens"
    language[name] = jnp.zeros_like(language[name])
    return {**params, "language": language}


def _seeds(seed: int, batch: int) -> jax.Array:
    return jnp.arange(batch, dtype=jnp.uint32) + seed


def _decoder_jobs(
    model: pixel_decoder.PixelDecoder, params: Params, visual: int, batch: int
) -> list[Job]:
    c = model.config
    side = c.image_size // c.vae.factor
    context = jax.random.normal(jax.random.key(2), (batch, visual, c.mmdit.context_dim))
    shape = (batch, side, side, c.mmdit.latent_channels)

    @jax.jit
    def pixels(params: Params, latents: jax.Array) -> jax.Array:
        return model.apply({"params": params}, latents, method="pixels")

    def decode(seed: int) -> jax.Array:
        noise = jax.random.normal(jax.random.key(seed), shape)
        latents = pixel_decoder.sample_latents(model, params, context, noise, steps=STEPS)
        return pixels(params, latents)

    return [Job("decode", decode, batch, 0)]


def _seconds(job: Job, seed: int) -> float:
    began = time.perf_counter()
    jax.block_until_ready(job.run(seed))
    return time.perf_counter() - began


def _peak(device: jax.Device) -> int:
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return held or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
