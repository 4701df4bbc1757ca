"""Full-size programs compiled for a device that is not here, and what the compiler says of them."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from latentum_jax.config import DecoderConfig, LatentUMConfig
from latentum_jax.decoder import folder as decoder_folder
from latentum_jax.decoder import pixel_decoder
from latentum_jax.devices import TARGETS, compile_afresh, describe
from latentum_jax.eval.bench import ANSWER, DECODERS, GUIDANCE, NEVER, PADDED, PLAN, SIZES, STEPS
from latentum_jax.eval.hlo import Program
from latentum_jax.generate.image import draw, prefill
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import encode_images
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, Params, held_dtype, unstack_layers
from latentum_jax.models.layers import Dtype
from latentum_jax.tokenizer import SpecialIds


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program at a batch. `rounds` is how often its loop over tokens goes round, 0 without one;
    `cache` and `floor` are the bytes of its cache, and those that a round has to read of weights.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    rounds: int = 0
    cache: int = 0
    floor: int = 0

    def compile(self, target: str) -> jax.stages.Compiled:
        """For a device of this target."""
        return compile_afresh(self.lower(), target)


def compile_for(
    target: str,
    batches: Sequence[int],
    *,
    size: str = "full",
    dtype: str = "bfloat16",
    weights: str | None = None,
) -> dict[str, Any]:
    """Compiles every program for one device: {"target", "size", "dtype", "weights", "rows"}.

    With `weights` "int8" or "fp8" the kernels that decoding reads are of 8 bits.

    A row has `program`, `batch`, `argument_bytes`, `temp_bytes`, `output_bytes`, `cache_bytes`,
    `weight_bytes_per_token` and `floor_bytes_per_token` (of the loop over tokens, None without
    one), `floor_seconds_per_token` (at the device's bandwidth), `custom_calls` (kernels by name),
    `compile_seconds` and `largest_batch`, the one that fits into the device's memory, as two
    batches have it (None for one). What the compiler refuses has `error` instead.

    Raises ValueError for an unknown target or size, or where its compiler is not installed.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, expected one of {tuple(SIZES)}")
    (device,) = describe(target)
    rows = []
    with tqdm(desc=target, unit="program") as bar:
        for batch in batches:
            sizes = SIZES[size], DECODERS.get(size)
            for program in programs(*sizes, jnp.dtype(dtype), batch, device, weights):
                rows.append({"program": program.name, "batch": batch, **_row(program, target)})
                bar.update(1)
    for row in rows:
        row["largest_batch"] = largest_batch(row, rows, TARGETS[target].memory)
    return {"target": target, "size": size, "dtype": dtype, "weights": weights, "rows": rows}


def table(results: Mapping[str, Any]) -> str:
    """The results as a Markdown table."""
    names = ["program", "batch", "arguments", "temporaries", "cache", "weights a token", "floor"]
    lines = [
        f"{results['size']}, {results['weights'] or results['dtype']}, "
        f"compiled for {results['target']}\n",
        f"| {' | '.join(names)} | largest batch | kernels | compiled in |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in results["rows"]:
        start = f"| {row['program']} | {row['batch']} |"
        if "error" in row:
            lines.append(f"{start} {row['error']} |" + " |" * (len(names)))
            continue
        sizes = (
            row[f"{name}_bytes"] if name in ("argument", "temp", "cache") else row[name]
            for name in (
                "argument",
                "temp",
                "cache",
                "weight_bytes_per_token",
                "floor_bytes_per_token",
            )
        )
        cells = ["" if size is None else f"{size / 1e9:.2f} GB" for size in sizes]
        kernels = ", ".join(f"{count} {name}" for name, count in row["custom_calls"].items())
        cells += [str(row["largest_batch"] or ""), kernels, f"{row['compile_seconds']:.0f} s"]
        lines.append(f"{start} {' | '.join(cells)} |")
    return "\n".join(lines)


def programs(
    config: LatentUMConfig,
    decoder: DecoderConfig | None,
    dtype: Dtype,
    batch: int,
    device: Any,
    weights: str | None = None,
) -> Iterator[Lowered]:
    """The programs of text to image with guidance, of an answer, of a plan, and of encoding and
    decoding."""
    given = functools.partial(_given, sharding=SingleDeviceSharding(device))
    layout = functools.partial(unstack_layers, weights=weights, platform=device.platform)
    params = given(_parameters(expected_shapes(config), dtype, layout))
    model, rows, visual = LatentUM(config, dtype), 2 * batch, config.vision.num_tokens
    ids = dataclasses.replace(SpecialIds(*[NEVER] * 6), img=1, pad=0)
    array = lambda *shape, kind=jnp.int32: given(jax.ShapeDtypeStruct(shape, kind))  # noqa: E731
    seeds, lengths = array(batch, kind=jnp.uint32), array(batch)
    pixels = array(batch, config.vision.image_size, config.vision.image_size, 3, kind=jnp.uint8)
    yield Lowered("encode", lambda: encode_images.lower(model, params, pixels))

    tokens = array(batch, PADDED)
    start = functools.partial(prefill, model, ids=ids, guided=True)
    caches, first = jax.eval_shape(start, params, tokens, lengths)
    cache = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(caches))
    yield Lowered(
        "prefill",
        lambda: prefill.lower(model, params, tokens, lengths, ids=ids, guided=True),
        cache=cache,
    )
    settings = {"sampling": GREEDY, "guidance": GUIDANCE}
    drawn = (given(caches), given(first), array(rows), seeds)
    yield Lowered(
        "generate",
        lambda: draw.lower(model, params, *drawn, **settings),
        visual,
        cache,
        _visual_token(params, config),
    )
    question = array(batch, visual + PADDED, config.language.hidden_size, kind=dtype)
    reason = functools.partial(interleave.lower, model, params, question, lengths, seeds, ids=ids)
    words = functools.partial(reason, text=GREEDY, codes=GREEDY)
    answer = Limits(steps=1, images=0, text=ANSWER)
    yield Lowered("answer", functools.partial(words, limits=answer))
    yield Lowered("plan", functools.partial(words, limits=PLAN))
    if decoder is not None:
        yield _decode(decoder, dtype, batch, visual, given)


def _decode(
    config: DecoderConfig, dtype: Dtype, batch: int, visual: int, given: Callable[[Any], Any]
) -> Lowered:
    model = pixel_decoder.PixelDecoder(config, dtype)
    params = given(_parameters(decoder_folder.expected_shapes(config), dtype))
    side = config.image_size // config.vae.factor
    context = given(jax.ShapeDtypeStruct((batch, visual, config.mmdit.context_dim), dtype))
    noise = given(
        jax.ShapeDtypeStruct((batch, side, side, config.mmdit.latent_channels), jnp.float32)
    )
    steps = functools.partial(pixel_decoder.sample_latents.lower, steps=STEPS)
    return Lowered("decode", lambda: steps(model, params, context, noise))


def _parameters(
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Dtype,
    layout: Callable[[Params], Params] = lambda params: params,
) -> Params:
    """Shapes and dtypes of parameters, as they are held."""

    def make() -> Params:
        flat = {path: jnp.zeros(shape, held_dtype(path, dtype)) for path, shape in shapes.items()}
        return layout(unflatten_dict(flat, sep="/"))

    return jax.eval_shape(make)


def _given(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _visual_token(params: Params, config: LatentUMConfig) -> int:
    """Bytes of weights that a visual token goes through: the generation branch and what lies in
    its way once, the vision head once a code."""
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    language, head = params["language"], params["head"]
    layers = [{k: v for k, v in layer.items() if k != "und"} for layer in language["layers"]]
    once = size([layers, language["norm"], params["visual_projector"]])
    return once + config.quantizer.num_codebooks * size(
        [head["layers"], head["norm"], head["head"]]
    )


def _row(program: Lowered, target: str) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        made = program.compile(target)
    except Exception as error:  # whatever the compiler raises, for example of memory
        return {"error": str(error).splitlines()[0]}
    seconds = time.perf_counter() - began
    sizes, text = made.memory_analysis(), Program.parse(made.as_text())
    looped = program.rounds > 0
    return {
        "argument_bytes": sizes.argument_size_in_bytes,
        "temp_bytes": sizes.temp_size_in_bytes,
        "output_bytes": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "cache_bytes": program.cache,
        "weight_bytes_per_token": text.invariant_bytes(text.loop(program.rounds))
        if looped
        else None,
        "floor_bytes_per_token": program.floor if looped else None,
        "floor_seconds_per_token": program.floor / TARGETS[target].bandwidth if looped else None,
        "custom_calls": text.custom_calls(),
        "compile_seconds": round(seconds, 1),
    }


def largest_batch(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], memory: int
) -> int | None:
    """How many rows fit, if memory grows with the batch as it does between the outermost ones."""
    names = ("argument_bytes", "temp_bytes", "output_bytes")
    known = {
        other["batch"]: sum(other[name] for name in names)
        for other in rows
        if other["program"] == row["program"] and "error" not in other
    }
    if len(known) < 2:
        return None
    few, many = min(known), max(known)
    a_row = (known[many] - known[few]) / (many - few)
    return int((memory - known[few]) // a_row) + few
