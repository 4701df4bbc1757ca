"""`latentum`: every command of the library. Nothing heavy is imported before a command needs it."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latentum_jax.arguments import Parser, counts, levels, number, positive, whole_number
from latentum_jax.programs import keep_programs
from latentum_jax.train.stopping import Stopped

DEFAULT = "frozenlake-tiny"
EXPECTED = (ValueError, OSError, ModuleNotFoundError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 after a problem told on stderr, 128 and the
    number of the signal that ended it."""
    if argv is None:
        keep_programs()
    try:
        args, rest = parser().parse_known_args(argv)
        if args.run is train:
            args.overrides, args.may_restart = read_overrides(rest), argv is None
        elif rest:
            raise ValueError(f"unrecognized arguments: {' '.join(rest)}")
        args.run(args)
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        print(f"latentum: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except EXPECTED as error:
        print(f"latentum: error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


def sentence(error: BaseException) -> str:
    """An error's text in one line."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def read_overrides(rest: Sequence[str]) -> dict[str, str]:
    """`--config.a.b=VALUE` or `--config.a.b VALUE` as {"a.b": "VALUE"}."""
    overrides, rest = {}, list(rest)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            raise ValueError(f"unrecognized argument {name}, values are set by --config.KEY=VALUE")
        if not equals:
            if not rest:
                raise ValueError(f"{name} needs a value: {name}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return overrides


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


def train(args: argparse.Namespace) -> None:
    """Trains by a recipe; goes on where an earlier run in the same folder stopped."""
    from latentum_jax.train.memory import restart_with_huge_pages
    from latentum_jax.train.recipe import load_config

    config = load_config(args.config, args.overrides)
    not_a_file(args.workdir)
    if args.may_restart:
        restart_with_huge_pages()
    from latentum_jax.train import loop

    print(f"model in {loop.train(config, args.workdir)}")


def eval_vsp(args: argparse.Namespace) -> None:
    """Solves FrozenLake mazes and counts the successes."""
    from latentum_jax.data.frozenlake.mazes import load_mazes
    from latentum_jax.eval import vsp

    not_a_file(args.out)
    if args.mazes is not None:
        mazes = load_mazes(args.mazes)
    else:
        mazes = vsp.held_out(args.levels, args.num, args.seed)
    model = load_model(args)
    results = vsp.evaluate(model, mazes, args.mode, args.out, checkpoint=args.checkpoint)
    print(vsp.table(results))


def eval_questions(args: argparse.Namespace) -> None:
    """Asks questions about held-out mazes and counts the right answers."""
    from latentum_jax.eval import questions

    not_a_file(args.out)
    results = questions.evaluate(
        load_model(args), args.levels, args.num, args.seed, args.out, checkpoint=args.checkpoint
    )
    print(questions.table(results))


def eval_quantizers(args: argparse.Namespace) -> None:
    """Compares quantizers trained on one model, by the answers given from quantized features."""
    from latentum_jax.eval import quantizers

    not_a_file(args.out)
    results = quantizers.compare(args.checkpoints, args.levels, args.num, args.seed, args.out)
    print(quantizers.table(results), end="")


def convert(args: argparse.Namespace) -> None:
    """Converts checkpoints: published ones, InternVL3.5 and SD3.5 to ours, ours to published."""
    from latentum_jax.convert import command

    not_a_file(args.target)
    options = command.Options(args.sd3_5, args.references, args.allow_pickle)
    kind = command.convert(args.source, args.target, to=args.to, dtype=args.dtype, options=options)
    print(f"{kind}, converted: {args.target}")


def eval_frames(args: argparse.Namespace) -> None:
    """Draws held-out mazes from their codes and reads the pictures."""
    from latentum_jax.eval import frames

    not_a_file(args.out)
    model, decoder = load_model(args), load_decoder(args)
    results = frames.evaluate(
        model, decoder, args.levels, args.num, args.seed, args.out, checkpoint=args.checkpoint
    )
    print(frames.table(results))


def demo(args: argparse.Namespace) -> None:
    """Shows everything a maze model does on one page."""
    from latentum_jax.eval import report
    from latentum_jax.pretrained import find_model

    not_a_file(args.out)
    model, folder = load_model(args), find_model(args.checkpoint)
    has_decoder = args.decoder or (folder / "decoder").is_dir()
    shown = report.gather(model, args.seed, load_decoder(args) if has_decoder else None)
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
        size, dtype = args.size or "full", args.dtype or "bfloat16"
        kinds = {"size": size, "dtype": dtype, "weights": args.weights}
        results = aot.compile_for(args.target, args.batch, **kinds)
        print(aot.table(results))
    else:
        size = args.size or "tiny"
        kinds = {"dtype": args.dtype, "weights": args.weights}
        results = timed.bench(size, args.batch, **kinds, repeats=args.repeats)
        print(timed.table(results))
    if args.json is not None:
        write_json(args.json, results)


def compile_programs(args: argparse.Namespace) -> None:
    """Runs every path once on empty input, so that later runs find its programs on disk."""
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


def parser() -> Parser:
    """The command line."""
    top = Parser(prog="latentum", description="One model that reasons in text and latent images.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_model_commands(commands)
    command = _add(commands, "train", train)
    command.add_argument("--config", required=True, help="a recipe's name, or a path to its .py")
    command.add_argument("--workdir", required=True, type=Path, help="where the run is kept")
    command.epilog = "--config.KEY=VALUE overrides a value, such as --config.steps=100"
    evals = commands.add_parser("eval", help="Measures a model.").add_subparsers(
        required=True, metavar="BENCHMARK"
    )
    command = _add(evals, "vsp", eval_vsp, checkpoint=True)
    command.add_argument("--mode", choices=("fine", "coarse"), default="fine")
    _add_mazes(command).add_argument("--mazes", type=Path, metavar="FILE.jsonl")
    command = _add(evals, "questions", eval_questions, checkpoint=True)
    _add_mazes(command, num=40)
    command = _add(evals, "quantizers", eval_quantizers)
    command.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    _add_mazes(command, num=40)
    _add_convert(commands)
    command = _add(commands, "compile", compile_programs, checkpoint=True)
    command.add_argument("--batch", type=counts, default=(1,), metavar="1,4")
    command.add_argument("--guidance", type=number, default=3.0, help="of generate")
    text = "as long as those to come: programs are for prompts of up to 32, 64, ... tokens"
    command.add_argument("--question", default="Describe the image.", help=text)
    command = _add(commands, "bench", bench)
    text = (
        "compile for this device, which need not be here (h100, v5e, v5p, v6e), instead of timing"
    )
    command.add_argument("--target", metavar="NAME", help=text)
    text = "(default: tiny; with --target, full)"
    command.add_argument("--size", choices=("tiny", "small", "full"), help=text)
    command.add_argument("--batch", type=counts, default=(1,), metavar="1,4")
    text = "of weights and arithmetic (default: float32 on a CPU, bfloat16 elsewhere)"
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help=text)
    _add_weights(command)
    command.add_argument("--repeats", type=positive, default=3, metavar="N")
    command.add_argument("--json", type=Path, metavar="FILE")
    command = _add(evals, "frames", eval_frames, checkpoint=True)
    _add_decoder(command)
    _add_mazes(command)
    command = _add(commands, "demo", demo, checkpoint=True)
    _add_decoder(command)
    command.add_argument("--out", type=Path, default=Path("latentum-demo"), metavar="DIR")
    command.add_argument("--seed", type=whole_number, default=0)
    return top


def _add(commands: Any, name: str, run: Callable, *, checkpoint: bool = False) -> Parser:
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    if checkpoint:
        text = f"a model folder, a finished workdir or a bundled name (default {DEFAULT})"
        command.add_argument("--checkpoint", default=DEFAULT, help=text)
        _add_weights(command)
    return command


def _add_weights(command: Parser) -> None:
    text = "hold the weights that decoding reads in 8 bits"
    command.add_argument("--weights", choices=("int8", "fp8"), help=text)


def _add_model_commands(commands: Any) -> None:
    command = _add(commands, "answer", answer, checkpoint=True)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument("--features", choices=("continuous", "quantized"), default="continuous")
    text = "InternVL's tiles; 1, the default, squeezes the picture into one"
    command.add_argument("--max-tiles", type=positive, default=1, metavar="N", help=text)

    command = _add(commands, "generate", generate, checkpoint=True)
    command.add_argument("prompts", nargs="+", metavar="PROMPT")
    command.add_argument("--guidance", type=number, default=3.0, help="above 1 it is on")
    command.add_argument("--temperature", type=number, default=0.9)
    command.add_argument("--top-k", type=whole_number, default=50)
    command.add_argument("--top-p", type=number, default=0.95)
    command.add_argument("--seed", type=whole_number, default=0)
    command.add_argument("--out", type=Path, default=Path("codes.npz"), metavar="CODES.npz")
    text = "draws them as PNG, by the pixel decoder"
    command.add_argument("--images", type=Path, metavar="DIR", help=text)
    command.add_argument("--steps", type=positive, default=25, help="of the pixel decoder")
    _add_decoder(command)
    _add_question(command)

    command = _add(commands, "describe", describe, checkpoint=True)
    command.add_argument("codes", type=Path, metavar="CODES.npz")
    _add_question(command)

    command = _add(commands, "plan", plan, checkpoint=True)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--mode", choices=("fine", "coarse"), default="fine")
    command.add_argument("--max-steps", type=positive, default=12)
    command.add_argument("--seed", type=whole_number, help="samples instead of the likeliest")
    text = "draws what was imagined as PNG and GIF, beside the simulator's pictures"
    command.add_argument("--frames", type=Path, metavar="DIR", help=text)
    _add_decoder(command)


def _add_convert(commands: Any) -> None:
    command = _add(commands, "convert", convert)
    command.add_argument("source", type=Path, metavar="SRC", help="a folder, or SD3.5's one file")
    command.add_argument("target", type=Path, metavar="DST", help="the folder to make")
    text = "the layout to write (default: the one that SRC does not have)"
    command.add_argument("--to", choices=("ours", "published"), help=text)
    text = "of the weights, but for the quantizer's (default: as in SRC)"
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help=text)
    text = "SD3.5's folder, for a published decoder whose config names another place"
    command.add_argument("--sd3-5", type=Path, metavar="DIR", help=text)
    text = "frames that a decoder started from SD3.5 takes (default 0)"
    command.add_argument("--references", type=whole_number, metavar="N", help=text)
    text = "read torch's .bin, .pt and .pth too, of which weights alone are unpickled"
    command.add_argument("--allow-pickle", action="store_true", help=text)


def _add_decoder(command: Parser) -> None:
    text = "a pixel decoder's folder (default: the one that comes with the model)"
    command.add_argument("--decoder", type=Path, metavar="DIR", help=text)


def _add_question(command: Parser) -> None:
    text = "asked of each latent image (default: %(default)s)"
    command.add_argument("--question", default="Describe the maze.", help=text)


def _add_mazes(command: Parser, num: int = 100) -> Any:
    """Arguments for held-out mazes; returns the group of what stands in for `--levels`."""
    group = command.add_mutually_exclusive_group()
    group.add_argument("--levels", type=levels, default=(3, 4, 5, 6), metavar="3,4,5,6")
    command.add_argument("--num", type=positive, default=num, help="how many (of each level)")
    command.add_argument("--seed", type=whole_number, default=0)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    return group


if __name__ == "__main__":
    sys.exit(main())
