"""32 mazes planned in one continuous batch, and one after another: seconds of both, the same plans?

    python launch/bench_plans.py --checkpoint frozenlake-tiny   # a trained model, held-out mazes
    python launch/bench_plans.py --size small                   # random weights of a size

Random weights are of a model that says `<img>` whenever it may, so that a maze's plan has as many
images as its shortest path has moves; a trained model ends as it will. Rows end at different
times, and others take their place where `--rows` is less than the number of mazes. Both run the
engine, with `--rows` rows and with one. Exits with 1 where a plan differs.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze, sample_maze, shortest_path
from latentum_jax.eval.bench import NEVER, SIZES, img_alone, random_params
from latentum_jax.eval.vsp import step_limit
from latentum_jax.generate.engine import Done, Engine
from latentum_jax.generate.prompt import embed_images
from latentum_jax.generate.rows import Limits
from latentum_jax.images import see
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import LatentUM, unstack_here
from latentum_jax.pretrained import LatentUM as Pretrained
from latentum_jax.tokenizer import SpecialIds

LEVELS = (3, 4, 5, 6)
Plans = dict[int, tuple[tuple[int, ...], np.ndarray]]  # a maze's tokens and codes [J L C]
Work = tuple[Callable[..., Engine], np.ndarray, list[Limits]]  # opens(rows=), prompts, limits


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
    return report(found, plans, args)


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


def report(found: dict[str, list[float]], plans: dict[str, Plans], args: argparse.Namespace) -> int:
    """Prints medians; 0 where all plans are the same."""
    together, alone = plans.values()
    images = sum(len(codes) for _, codes in alone.values())
    what = args.checkpoint or f"size {args.size}"
    device = jax.devices()[0].device_kind
    print(f"{args.mazes} mazes, {images} images, {what}, {args.rows} rows, {device}")
    for name, seconds in found.items():
        print(f"{name}: {statistics.median(seconds):.2f} s")
    ratios = np.divide(found["one after another"], found["together"])
    odd = [i for i in alone if not _same(together[i], alone[i])]
    print(f"{np.median(ratios):.1f} times less together; plans that differ: {len(odd)}")
    return int(bool(odd))


def _same(one: tuple[tuple[int, ...], np.ndarray], other: tuple) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1])


if __name__ == "__main__":
    sys.exit(main())
