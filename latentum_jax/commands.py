"""What each command of `latentum` does. Nothing heavy is imported before a command needs it."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentum_jax.arguments import WORLD


def answer(args: argparse.Namespace) -> None:
    """Answers a question about a picture."""
    model = load_model(args)
    options = {"features": args.features, "max_tiles": args.max_tiles}
    print(model.answer(args.image, args.question, **options)[0])


def generate(args: argparse.Namespace) -> None:
    """Draws latent images and says what is in them."""
    from latentum_jax.eval.codes import write_codes
    from latentum_jax.generate.sampling import Sampling

    not_a_folder(args.out)
    if args.images is not None:
        not_a_file(args.images)
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    model = load_model(args)
    decoder = None if args.images is None else load_decoder(args)
    seeds = seeds_of(args.seed, len(args.prompts))
    codes = model.generate(args.prompts, guidance=args.guidance, sampling=sampling, seeds=seeds)
    described = model.describe(codes, args.question)
    write_codes(args.out, codes, args.prompts)
    print_each(args.prompts, described)
    print(f"{len(codes)} latent image{'s' * (len(codes) > 1)} in {args.out}")
    if decoder is not None:
        from latentum_jax.eval.frames import write_pictures

        pictures = decoder.decode(model.z_q(codes), steps=args.steps, seeds=seeds)
        write_pictures(args.images, pictures)
        print(f"drawn in {args.images}")


def describe(args: argparse.Namespace) -> None:
    """Answers a question about latent images, with no pixels in between."""
    from latentum_jax.eval.codes import read_codes

    model = load_model(args)
    codes, prompts = read_codes(args.codes, model.config)
    print_each(prompts, model.describe(codes, args.question))


def plan(args: argparse.Namespace) -> None:
    """Solves mazes from their pictures."""
    from latentum_jax.generate.sampling import GREEDY, Sampling

    if args.frames is not None:
        not_a_file(args.frames)
    model = load_model(args)
    decoder = None if args.frames is None else load_decoder(args)
    sampling = GREEDY if args.seed is None else Sampling()
    plans = model.plan(
        args.images,
        mode=args.mode,
        max_steps=args.max_steps,
        text=sampling,
        codes=sampling,
        seeds=seeds_of(args.seed or 0, len(args.images)),
    )
    print_each([str(image) for image in args.images], [found.text for found in plans])
    if decoder is not None:
        from latentum_jax.eval.frames import write_plans

        seed = args.seed or 0
        write_plans(model, decoder, args.images, plans, args.mode, args.frames, seed=seed)
        print(f"what was imagined is drawn in {args.frames}")


def roll_out(args: argparse.Namespace) -> None:
    """Imagines the frames that come of some frames and actions, in pixels or latent throughout."""
    from latentum_jax.eval import walks
    from latentum_jax.generate.sampling import Sampling

    not_a_file(args.out)
    walked = walks.read_walk(args.frames, args.trajectory, args.actions, args.first, args.steps)
    model = load_model(args)
    needs_decoder = args.recurrence == "pixels" or args.draw != "none"
    walks.roll_out(
        model,
        load_decoder(args) if needs_decoder else None,
        walked,
        args.out,
        through_pixels=args.recurrence == "pixels",
        draw=args.draw,
        decode_steps=args.decode_steps,
        sampling=Sampling(args.temperature, args.top_k, args.top_p),
        seed=args.seed,
    )
    print(f"{len(walked.actions) - len(walked.frames) + 1} frames imagined, in {args.out}")


def train(args: argparse.Namespace) -> None:
    """Trains by a recipe; goes on where an earlier run in the same folder stopped."""
    from latentum_jax.train.memory import restart_with_huge_pages

    not_a_file(args.workdir)
    if args.may_restart:
        restart_with_huge_pages()
    from latentum_jax.train import hosts
    from latentum_jax.train.recipe import load_config

    # Before a recipe is read: its file may do something on a device.
    hosts.connect(args.coordinator, args.processes, args.process)
    config = load_config(args.config, args.overrides)
    from latentum_jax.rl.start import start_of
    from latentum_jax.train import loop

    done = loop.train(config, args.workdir, start_of)
    if hosts.is_first():
        print(f"model in {done}")


def precompute(args: argparse.Namespace) -> None:
    """Encodes the pictures of a recipe's data once, for `data.source` records; goes on where it
    stopped."""
    from latentum_jax.pixel_decoder import PixelDecoder
    from latentum_jax.precompute import precompute as encode
    from latentum_jax.train.recipe import load_config

    not_a_file(args.out)
    config = load_config(args.config, args.overrides)
    model = load_model(args)
    decoder = None if args.decoder is None else PixelDecoder.from_pretrained(args.decoder)
    count = encode(config, model, decoder, args.out, batch=args.batch, shard=args.shard)
    print(f"{count} rows in {args.out}")


def embed(args: argparse.Namespace) -> None:
    """Makes embeddings of texts and pictures, for `data.source` embeddings."""
    from latentum_jax import embed as made
    from latentum_jax.convert.bert import read_sentences

    not_a_file(args.out)
    sentences = None if args.sentences is None else read_sentences(args.sentences)
    needed = args.images is not None or sentences is None
    model = load_model(args) if needed else None
    given = {"texts": args.texts, "images": args.images}
    sizes = made.embed(args.out, **given, sentences=sentences, model=model)
    for side, (count, width) in sizes.items():
        print(f"{count} embeddings of width {width} in {args.out / side}.npz")


def report(args: argparse.Namespace) -> None:
    """Says how long the steps of a run took, and where its loss was out of the ordinary."""
    from latentum_jax.train import monitor

    file = args.workdir / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"{args.workdir} is no workdir of a run: it has no metrics.jsonl")
    print(monitor.report(file))


def convert(args: argparse.Namespace) -> None:
    """Converts checkpoints: published ones, InternVL3.5 and SD3.5 to ours, ours to published."""
    from latentum_jax.convert import command

    not_a_file(args.target)
    options = command.Options(args.sd3_5, args.references, args.allow_pickle)
    kind = command.convert(args.source, args.target, to=args.to, dtype=args.dtype, options=options)
    print(f"{kind}, converted: {args.target}")


def demo(args: argparse.Namespace) -> None:
    """Shows everything a maze model does on one page."""
    import dataclasses
    from concurrent.futures import ThreadPoolExecutor

    from latentum_jax.eval import report, strip
    from latentum_jax.pixel_decoder import PixelDecoder
    from latentum_jax.pretrained import LatentUM, find_model

    not_a_file(args.out)
    model, folder = load_model(args), find_model(args.checkpoint)
    has_decoder = args.decoder or (folder / "decoder").is_dir()

    def walk() -> strip.Strip:
        walker = LatentUM.from_pretrained(WORLD), PixelDecoder.from_pretrained(WORLD)
        return strip.imagine_walk(*walker, args.seed)

    with ThreadPoolExecutor(1) as pool:  # one traces its programs while the other's run
        walked = pool.submit(walk)
        shown = report.gather(model, args.seed, load_decoder(args) if has_decoder else None)
        shown = dataclasses.replace(shown, strip=walked.result())
    path = report.write_page(shown, args.out, folder / "metrics.json")
    print(report.summary(shown))
    print(f"page in {path}")


def bench(args: argparse.Namespace) -> None:
    """Times every path on this machine, with random weights; with --target compiles it instead."""
    from latentum_jax.eval import aot
    from latentum_jax.eval import bench as timed
    from latentum_jax.files import write_json

    if args.json is not None:
        not_a_folder(args.json)
    if args.target is not None:
        if args.paths is not None:
            raise ValueError("--paths says what is timed here, --target compiles every program")
        size, dtype = args.size or "full", args.dtype or "bfloat16"
        kinds = {"size": size, "dtype": dtype, "weights": args.weights}
        results = aot.compile_for(args.target, args.batch, **kinds)
        print(aot.table(results))
    else:
        size = args.size or "tiny"
        kinds = {"dtype": args.dtype, "weights": args.weights}
        paths = args.paths.split(",") if args.paths else timed.PATHS
        results = timed.bench(size, args.batch, **kinds, repeats=args.repeats, paths=paths)
        print(timed.table(results))
    if args.json is not None:
        write_json(args.json, results)


def compile_programs(args: argparse.Namespace) -> None:
    """Runs every path once on empty input, so that later runs find its programs on disk; with
    --config compiles a recipe's training step for devices that need not be here."""
    if args.config is not None:
        compile_step(args)
        return
    if args.overrides:
        raise ValueError(f"--config.{next(iter(args.overrides))} needs --config NAME")
    import numpy as np

    from latentum_jax.programs import kept_in

    model = load_model(args)
    blank = np.zeros((64, 64, 3), np.uint8)
    for batch in args.batch:
        pictures = [blank] * batch
        paths = {
            "answer": lambda p=pictures: model.answer(p, args.question),
            "generate": lambda b=batch: model.generate([args.question] * b, guidance=args.guidance),
            "plan": lambda p=pictures: model.plan(p) if model.chat.fine_prompt else None,
        }
        for name, run in paths.items():
            began = time.perf_counter()
            run()
            print(f"{name}, batch {batch}: {time.perf_counter() - began:.1f} s")
    print(f"programs in {kept_in() or 'memory alone: JAX_COMPILATION_CACHE_DIR is empty'}")


def compile_step(args: argparse.Namespace) -> None:
    """`compile --config`."""
    from latentum_jax.eval import fits
    from latentum_jax.files import write_json
    from latentum_jax.rl import fits as of_grpo
    from latentum_jax.train.recipe import load_config

    if args.json is not None:
        not_a_folder(args.json)
    config = load_config(args.config, args.overrides)
    if config.stage == "grpo":
        results = of_grpo.compile_grpo(config, args.target, args.devices)
        print(of_grpo.table({"config": args.config, **results}))
    else:
        results = fits.compile_recipe(config, args.target, args.devices)
        print(fits.table({"config": args.config, **results}))
    if args.json is not None:
        write_json(args.json, {"config": args.config, **results})


def load_model(args: argparse.Namespace) -> Any:
    """The model of `--checkpoint`."""
    from latentum_jax.pretrained import LatentUM

    return LatentUM.from_pretrained(args.checkpoint, weights=args.weights)


def load_decoder(args: argparse.Namespace) -> Any:
    """The pixel decoder of `--decoder`, or the one that comes with `--checkpoint`."""
    from latentum_jax.pixel_decoder import PixelDecoder
    from latentum_jax.pretrained import find_model

    own = find_model(args.checkpoint) / "decoder"
    if args.decoder is None and not own.is_dir():
        raise ValueError(f"{args.checkpoint} comes without a pixel decoder: give --decoder DIR")
    return PixelDecoder.from_pretrained(args.decoder or own)


def print_each(names: Sequence[str], texts: Sequence[str]) -> None:
    """A text alone as it is, several under their names."""
    for name, text in zip(names, texts, strict=True):
        print(text if len(texts) == 1 else f"{name}:\n{text}\n")


def seeds_of(seed: int, count: int) -> list[int]:
    """A seed a row, from `seed` on."""
    return [(seed + i) % 2**32 for i in range(count)]


def not_a_file(folder: Path) -> None:
    """ValueError, before any work is done, where a folder to write to is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder to write to")


def not_a_folder(file: Path) -> None:
    """ValueError, before any work is done, where a file to write is a folder."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder, expected a file to write")
