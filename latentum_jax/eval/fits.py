"""Does a recipe fit? Its training step, compiled for devices that are not here."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from latentum_jax.config import AlignerConfig, DecoderConfig, LatentUMConfig, VisionConfig
from latentum_jax.data.interleaved import Row, RowBuilder, RowShape, picture_row
from latentum_jax.decoder import folder as decoder_folder
from latentum_jax.devices import TARGETS, compile_afresh, describe
from latentum_jax.eval.hlo import Program
from latentum_jax.latentumm import folder as aligner_folder
from latentum_jax.models.folder import expected_shapes
from latentum_jax.sharding import batch_sharding, make_mesh
from latentum_jax.tokenizer import Wordless
from latentum_jax.train.flops import count_flops
from latentum_jax.train.loop import check_mesh
from latentum_jax.train.optim import make_optimizer
from latentum_jax.train.stages import ALIGNER_STAGES, STAGES
from latentum_jax.train.start import SEEING, aligner_stage, decoder_stage, model_stage
from latentum_jax.train.state import TrainState, abstract_state, make_step

IDS = Wordless().ids


def compile_recipe(config: ConfigDict, target: str, devices: int) -> dict[str, Any]:
    """Compiles the training step of a recipe for so many devices of a target.

    Returns {"target", "devices", "mesh", "rows"} and, a device, `argument_bytes`, `temp_bytes`,
    `total_bytes` and `memory_bytes` (what it has), `collectives` ({name: {"count", "bytes",
    "largest_bytes"}} a step), `custom_calls`, `flops` (counted in what is compiled) and
    `model_flops` (without what is computed again), and `compile_seconds`.

    Raises ValueError for a config or mesh that is wrong, or where the compiler is not installed.
    """
    if config.chain:
        raise ValueError(f"the recipe is a chain of {tuple(config.chain)}, expected one stage")
    mesh = make_mesh(config.mesh.to_dict(), describe(target, devices))
    state, batch, step, once = abstract_steps(config, mesh)
    with jax.set_mesh(mesh):
        began = time.perf_counter()
        made = compile_afresh(step.lower(state, batch), target)
        seconds = time.perf_counter() - began
        flops, needed = (count_flops(one, state, batch) // devices for one in (step, once))
    sizes, program = made.memory_analysis(), Program.parse(made.as_text())
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return {
        "target": target,
        "devices": devices,
        "mesh": dict(mesh.shape),
        "rows": jax.tree.leaves(batch)[0].shape[0],
        "argument_bytes": sizes.argument_size_in_bytes,
        "temp_bytes": sizes.temp_size_in_bytes,
        "total_bytes": held + sizes.temp_size_in_bytes,
        "memory_bytes": TARGETS[target].memory,
        "collectives": program.collectives(),
        "custom_calls": program.custom_calls(),
        "flops": flops,
        "model_flops": needed,
        "compile_seconds": round(seconds, 1),
    }


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    gb = lambda name: f"{results[f'{name}_bytes'] / 1e9:.1f} GB"  # noqa: E731
    mesh = " x ".join(f"{axis} {size}" for axis, size in results["mesh"].items() if size > 1)
    where = f"{results['devices']} {results['target']} ({mesh or 'one device'})"
    seconds = f"{results['compile_seconds']:.0f} s"
    lines = [
        f"{results['config']} on {where}, {results['rows']} rows a step, compiled in {seconds}; "
        "a device:\n",
        "| memory | arguments | temporaries | in all | TFLOP a step | computed again |",
        "|---|---|---|---|---|---|",
        f"| {gb('memory')} | {gb('argument')} | {gb('temp')} | {gb('total')} "
        f"| {results['flops'] / 1e12:.0f} "
        f"| {results['flops'] / results['model_flops'] - 1:.0%} |\n",
        "| exchanged a step | times | in all | the largest |",
        "|---|---|---|---|",
    ]
    for name, own in sorted(results["collectives"].items()):
        sizes = f"{own['bytes'] / 1e9:.2f} GB | {own['largest_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {name} | {own['count']} | {sizes} |")
    return "\n".join(lines)


def abstract_steps(config: ConfigDict, mesh: Any) -> tuple[TrainState, Any, Any, Any]:
    """State and batch of a recipe as shapes on a mesh, its step, and that without `remat`."""
    model = LatentUMConfig.from_dict(config.model.to_dict())
    decoder = DecoderConfig.from_dict(config.decoder.to_dict())
    zeros = lambda shapes: unflatten_dict(  # noqa: E731
        {path: jax.ShapeDtypeStruct(s, jnp.float32) for path, s in shapes.items()}, sep="/"
    )
    if config.stage in STAGES:
        stage, plain, axes, heads = model_stage(config, model, IDS)
        params = zeros(expected_shapes(model))
        shape = RowShape(config.data.length, config.data.images, config.data.targets, model.vision)
        batch = RowBuilder(Wordless(), shape).finish()
    elif config.stage in ALIGNER_STAGES:
        aligner = AlignerConfig.from_dict(config.aligner.to_dict())
        stage, plain, axes, heads = aligner_stage(config, aligner)
        params = zeros(aligner_folder.expected_shapes(aligner))
        widths = {"text": aligner.text_dim, "image": aligner.image_dim}
        batch = {side: np.zeros(width, np.float32) for side, width in widths.items()}
    else:
        stage, plain, axes, heads = decoder_stage(config, decoder, model)
        seen = zeros(
            {
                name: shape
                for name, shape in expected_shapes(model).items()
                if name.split("/")[0] in SEEING and config.stage != "vae"
            }
        )
        params = {"decoder": zeros(decoder_folder.expected_shapes(decoder)), "latentum": seen}
        batch = blank_pictures(decoder, model.vision)
    check_mesh(config, heads, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = abstract_state(
        params, stage, optimizer, mesh=mesh, axes=axes, average=config.ema > 0, dtype=config.dtype
    )
    settings = {"seed": config.seed, "ema_decay": config.ema, "accumulate": config.accumulate}
    where = batch_sharding(mesh)
    given = {
        name: jax.ShapeDtypeStruct((config.data.rows, *x.shape), x.dtype, sharding=where)
        for name, x in batch.items()
    }
    steps = (make_step(one, optimizer, state, **settings) for one in (stage, plain))
    return state, given, *steps


def blank_pictures(decoder: DecoderConfig, vision: VisionConfig) -> Row:
    """A row as a decoder's stages have it."""
    picture = np.zeros((decoder.image_size, decoder.image_size, 3), np.uint8)
    row = picture_row(picture, vision, decoder.image_size)
    if decoder.mmdit.references:
        row["references"] = np.stack([row["pixels"]] * decoder.mmdit.references)
    return row
