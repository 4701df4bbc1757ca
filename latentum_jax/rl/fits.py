"""Does a GRPO recipe fit? Its programs, compiled for devices that are not here: what they hold."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.data.interleaved import RowBuilder, RowShape
from latentum_jax.devices import TARGETS, compile_afresh, describe
from latentum_jax.generate.image import draw, prefill
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM
from latentum_jax.models.mome import empty_caches
from latentum_jax.rl.grpo import (
    TOLD,
    as_it_was,
    grpo_stage,
    sampling_of,
    scoring,
    without_reference,
)
from latentum_jax.rl.score import score
from latentum_jax.rl.start import grpo_axes
from latentum_jax.sharding import batch_sharding, make_mesh, spec
from latentum_jax.tokenizer import Wordless
from latentum_jax.train.optim import make_optimizer
from latentum_jax.train.state import TrainState, abstract_state, make_step, merge

IDS = Wordless().ids
HELD = ("policy", "optimizer", "reference", "frozen")


def compile_grpo(config: ConfigDict, target: str, devices: int) -> dict[str, Any]:
    """Compiles the programs of a step of a recipe that draws: rollouts (`prefill`, `draw`), the
    reference's `score` and the `update`.

    Returns {"target", "devices", "mesh", "rows", "held", "programs"}: `held` are bytes a device of
    what the run holds between them (`HELD`); a program has `argument_bytes`, `temp_bytes`,
    `total_bytes` and `compile_seconds`.

    Raises ValueError for a config or mesh that is wrong, or where the compiler is not installed.
    """
    if config.grpo.task != "draw":
        raise ValueError(f"grpo.task is {config.grpo.task!r}, rollouts are compiled for 'draw'")
    mesh = make_mesh(config.mesh.to_dict(), describe(target, devices))
    state, lowered = _programs(config, mesh)
    programs = {}
    with jax.set_mesh(mesh):
        for name, lower in lowered.items():
            began = time.perf_counter()
            made = compile_afresh(lower(), target)
            seconds, sizes = time.perf_counter() - began, made.memory_analysis()
            out = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            total = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + out
            programs[name] = {
                "argument_bytes": sizes.argument_size_in_bytes,
                "temp_bytes": sizes.temp_size_in_bytes,
                "total_bytes": total,
                "compile_seconds": round(seconds, 1),
            }
    return {
        "target": target,
        "devices": devices,
        "mesh": dict(mesh.shape),
        "rows": config.data.rows,
        "memory_bytes": TARGETS[target].memory,
        "held": held(state),
        "programs": programs,
    }


def held(state: TrainState) -> dict[str, int]:
    """Bytes a device of a run's state, by what they are for."""

    def size(tree: Any) -> int:
        shapes = ((x, x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))
        return sum(int(np.prod(shape)) * x.dtype.itemsize for x, shape in shapes)

    reference = {name: x for name, x in state.frozen.items() if name.startswith("reference/")}
    rest = {name: x for name, x in state.frozen.items() if name not in reference}
    parts = (state.trainable, state.opt_state, reference, rest)
    return {name: size(part) for name, part in zip(HELD, parts, strict=True)}


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    gb = lambda size: f"{size / 1e9:.2f} GB"  # noqa: E731
    mesh = " x ".join(f"{axis} {size}" for axis, size in results["mesh"].items() if size > 1)
    lines = [
        f"{results['config']} on {results['devices']} {results['target']} ({mesh}), "
        f"{results['rows']} rollouts a step; a device, of {gb(results['memory_bytes'])}:\n",
        f"| {' | '.join(HELD)} |",
        "|---" * len(HELD) + "|",
        f"| {' | '.join(gb(results['held'][name]) for name in HELD)} |\n",
        "| program | arguments | temporaries | in all | compiled in |",
        "|---|---|---|---|---|",
    ]
    for name, own in results["programs"].items():
        sizes = (own[f"{kind}_bytes"] for kind in ("argument", "temp", "total"))
        seconds = f"{own['compile_seconds']:.0f} s"
        lines.append(f"| {name} | {' | '.join(map(gb, sizes))} | {seconds} |")
    return "\n".join(lines)


def _programs(config: ConfigDict, mesh: Any) -> tuple[TrainState, dict[str, Any]]:
    """A recipe's state, as shapes on a mesh, and what lowers each program."""
    model, dtype = LatentUMConfig.from_dict(config.model.to_dict()), jnp.dtype(config.dtype)
    plain = LatentUM(model, dtype)
    stage = grpo_stage(LatentUM(model, dtype, config.remat), config, IDS)
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in expected_shapes(model).items()}
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = abstract_state(
        unflatten_dict(shapes, sep="/"),
        stage,
        optimizer,
        mesh=mesh,
        axes=grpo_axes(model),
        average=config.ema > 0,
        dtype=config.dtype,
    )
    rows, batch = _rows(config, model, mesh)
    settings = {"seed": config.seed, "ema_decay": config.ema, "accumulate": config.accumulate}
    params = merge(state.trainable, state.frozen)
    policy = without_reference(params)
    prompts = _some(rows, config.data.rows // config.grpo.group, mesh)
    return state, {
        "prefill": lambda: prefill.lower(plain, policy, *prompts, ids=IDS, guided=False),
        "draw": lambda: _lower_draw(plain, policy, config, mesh),
        "score": lambda: score.lower(plain, as_it_was(params), rows, **scoring(config, IDS)),
        "update": lambda: make_step(stage, optimizer, state, **settings).lower(state, batch),
    }


def _rows(config: ConfigDict, model: LatentUMConfig, mesh: Any) -> tuple[dict, dict]:
    """Rollouts as they are scored, and with what is learnt from."""
    data, length, count = config.data, model.vision.num_tokens, model.quantizer.num_codebooks
    shape = RowShape(data.length, 1, 1, model.vision)
    blank = np.zeros((length, count), np.int32)
    row = RowBuilder(Wordless(), shape).drawn(blank).finish()
    where = batch_sharding(mesh)
    of = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=where)  # noqa: E731
    rows = {name: of((data.rows, *x.shape), x.dtype) for name, x in row.items()}
    scores = ("sampled", "reference", "old")
    wanted = scores[: 1 + bool(config.grpo.beta)] + scores[2:] * (config.grpo.epochs > 1)
    batch = {name: of((data.rows, length * count), jnp.float32) for name in wanted}
    batch |= {name: of((data.rows,), jnp.float32) for name in ("advantage", f"{TOLD}reward")}
    return rows, rows | batch


def _some(rows: Mapping[str, Any], count: int, mesh: Any) -> tuple[Any, Any]:
    """Tokens and lengths of so many prompts."""
    tokens = rows["tokens"]
    where = NamedSharding(mesh, spec(("batch",), (count,), mesh))
    put = functools.partial(jax.ShapeDtypeStruct, sharding=where)
    return put((count, tokens.shape[1]), tokens.dtype), put((count,), jnp.int32)


def _lower_draw(model: LatentUM, policy: Any, config: ConfigDict, mesh: Any) -> Any:
    rows, language = config.data.rows, model.config.language
    slots = config.data.length + model.config.vision.num_tokens
    caches = jax.eval_shape(lambda: empty_caches(language, rows, slots, model.dtype))
    own = ("batch", "kv_heads", None, None)
    put = lambda x, axes: jax.ShapeDtypeStruct(  # noqa: E731
        x.shape, x.dtype, sharding=NamedSharding(mesh, spec(axes, x.shape, mesh))
    )
    caches = jax.tree.map(lambda x: put(x, own), caches)
    first = jax.ShapeDtypeStruct((rows, 1, language.hidden_size), model.dtype)
    row = lambda dtype: put(jax.ShapeDtypeStruct((rows,), dtype), ("batch",))  # noqa: E731
    how = {"sampling": sampling_of(config), "guidance": 1.0, "scored": True}
    first = put(first, ("batch", None, None))
    given = (policy, caches, first, row(jnp.int32), row(jnp.uint32))
    return draw.lower(model, *given, **how)
