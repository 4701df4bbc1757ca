"""32 mazes planned in one continuous batch, and one after another: seconds of both, the same plans?

    python launch/bench_plans.py --checkpoint frozenlake-tiny   # a trained model, held-out mazes
    python launch/bench_plans.py --size small                   # random weights of a size

Random weights are of a model that says `<img>` whenever it may, so that a maze's plan has as many
images as its shortest path has moves; a trained model ends as it will. Rows end at different
times, and others take their place where `--rows` is less than the number of mazes. Both run the
engine, with `--rows` rows and with one. Told too is the arithmetic with weights, in fp32, beside
what the device makes of a large product: what a batch can gain at most. Exits with 1 where a plan
differs.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze, sample_maze, shortest_path
from latentum_jax.eval.bench import NEVER, SIZES, img_alone, random_params
from latentum_jax.eval.vsp import step_limit
from latentum_jax.generate.engine import Done, Engine
from latentum_jax.generate.prompt import embed_images
from latentum_jax.generate.rows import Limits, Room, RowLimits, Rows, recache, say, start
from latentum_jax.generate.rows import draw as draw_token
from latentum_jax.generate.sampling import Sampling, row_keys
from latentum_jax.images import see
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, Params, unstack_here
from latentum_jax.pretrained import LatentUM as Pretrained
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.flops import count_flops

LEVELS = (3, 4, 5, 6)
Plan = tuple[tuple[int, ...], np.ndarray]  # a maze's tokens and codes [J L C]
Plans = dict[int, Plan]
Work = tuple[functools.partial, np.ndarray, list[Limits]]  # opens(rows=), prompts, limits


def main() -> int:
    """Measures; 0 where all plans are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--size", choices=("tiny", "small"), default="small")
    kind.add_argument("--checkpoint", help="instead of random weights")
    parser.add_argument("--mazes", type=int, default=32)
    parser.add_argument("--rows", type=int, default=32, help="of the continuous batch")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    levels = [LEVELS[i % len(LEVELS)] for i in range(args.mazes)]
    mazes = [sample_maze(rng, level, split="test") for level in levels]
    work = trained(args.checkpoint, mazes) if args.checkpoint else random(args.size, mazes)
    open_engine, prompts, limits = work
    found = {"together": [], "one after another": []}
    plans: dict[str, Plans] = {}
    for number in range(args.rounds + 1):
        for name, rows in (("together", args.rows), ("one after another", 1)):
            engine = open_engine(rows=rows)
            some = list(range(args.mazes)) if number else [0]  # the first round compiles
            seconds, plans[name] = timed(engine, prompts, limits, some)
            if number:
                found[name].append(seconds)
    flops = arithmetic(open_engine.args, prompts, plans["one after another"].values())
    return report(found, plans, flops, args)


def random(size: str, mazes: list[Maze]) -> Work:
    """Of random weights, in fp32."""
    limits = [Limits(n, n, 1) for n in (len(shortest_path(maze)) for maze in mazes)]
    config = SIZES[size]
    model = LatentUM(config, jnp.float32)
    params = random_params(expected_shapes(config), model.dtype)
    params = img_alone(unstack_here(model, params))
    pixels = np.stack([see(draw(start_state(maze)), config.vision) for maze in mazes])
    prompts = np.asarray(embed_images(model, params, jnp.asarray(pixels), False))
    ids = dataclasses.replace(SpecialIds(*[NEVER] * 6), img=0, img_end=1)
    settings = {"ids": ids, "width": prompts.shape[1], "limits": limits}
    return functools.partial(Engine, model, params, **settings), prompts, limits


def trained(checkpoint: str, mazes: list[Maze]) -> Work:
    """Of a model's own weights, in fp32: fine plans as the benchmark asks for them."""
    model = Pretrained.from_pretrained(checkpoint)
    turn, own = model.prompter.planning("fine", None, step_limit(model, mazes), None)
    draws = [model.embed_turn(turn, draw(start_state(maze)), "bilinear", own) for maze in mazes]
    prompts, limits = np.stack(draws), [own] * len(mazes)
    settings = {"ids": model.ids, "width": prompts.shape[1], "limits": [own]}
    return functools.partial(Engine, model.model, model.params, **settings), prompts, limits


def timed(
    engine: Engine, prompts: np.ndarray, limits: list[Limits], some: list[int]
) -> tuple[float, Plans]:
    """Seconds for some of the mazes, and their plans."""
    began = time.perf_counter()
    mazes = {engine.submit(prompts[i], limits[i]): i for i in some}
    ended = [event for event in engine.events(rounds=1 << 20) if isinstance(event, Done)]
    seconds = time.perf_counter() - began
    return seconds, {mazes[event.request]: (event.tokens, event.codes) for event in ended}


def arithmetic(work: tuple[LatentUM, Params], prompts: np.ndarray, plans: Collection[Plan]) -> int:
    """Multiplications and additions with weights that the plans take: of the prompts, the text, the
    visual tokens and the images recached. Caches of one slot leave out what attention does."""
    model, params = work
    limits, one, any_sampling = Limits(1, 1, 1), jnp.ones(1, jnp.int32), Sampling(temperature=0.0)
    ids = SpecialIds(*[NEVER] * 6)

    def begin(width: int) -> Rows:
        row, prompt = RowLimits.of([limits]), jnp.zeros((1, width, prompts.shape[2]), model.dtype)
        return start(model, params, prompt, one, row_keys(one), row, Room(width, 1, 1))

    rows = jax.eval_shape(functools.partial(begin, 1))
    images = sum(len(codes) for _, codes in plans)
    words = sum(len(tokens) for tokens, _ in plans) - images  # `</img>` is not said
    says = functools.partial(say, model, params, ids=ids, sampling=any_sampling)
    draws = functools.partial(draw_token, model, params, sampling=any_sampling)
    recaches = functools.partial(recache, model, params, ids=ids)
    return (
        len(prompts) * count_flops(functools.partial(begin, prompts.shape[1]))
        + words * count_flops(says, rows)
        + images * model.config.vision.num_tokens * count_flops(draws, rows)
        + images * count_flops(recaches, rows)
    )


def best_product() -> float:
    """Floating-point operations a second of a product of 2048 x 2048 in fp32, the best of 20."""
    side = 2048
    x, multiply = jnp.ones((side, side)), jax.jit(jnp.matmul)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(multiply(x, x))
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def report(
    found: dict[str, list[float]], plans: dict[str, Plans], flops: int, args: argparse.Namespace
) -> int:
    """Prints medians; 0 where all plans are the same."""
    together, alone = plans.values()
    images = sum(len(codes) for _, codes in alone.values())
    what = args.checkpoint or f"size {args.size}"
    device = jax.devices()[0].device_kind
    print(f"{args.mazes} mazes, {images} images, {what}, {args.rows} rows, {device}")
    for name, seconds in found.items():
        took = statistics.median(seconds)
        print(f"{name}: {took:.2f} s, {flops / took / 1e9:.0f} GFLOP/s of {flops / 1e9:.0f} GFLOP")
    print(f"a large product: {best_product() / 1e9:.0f} GFLOP/s")
    ratios = np.divide(found["one after another"], found["together"])
    odd = [i for i in alone if not _same(together[i], alone[i])]
    print(f"{np.median(ratios):.1f} times less together; plans that differ: {len(odd)}")
    return int(bool(odd))


def _same(one: Plan, other: Plan) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1])


if __name__ == "__main__":
    sys.exit(main())
