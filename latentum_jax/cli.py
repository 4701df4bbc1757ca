"""`latentum`: its command line."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentum_jax import commands as do
from latentum_jax.arguments import (
    DEFAULT,
    WORLD,
    Parser,
    add_command,
    add_decoder,
    add_question,
    add_sampling,
    add_weights,
    counts,
    number,
    positive,
    whole_number,
)
from latentum_jax.eval_cli import add_evals, add_miniature
from latentum_jax.programs import keep_programs
from latentum_jax.train.stopping import Stopped

EXPECTED = (ValueError, OSError, ModuleNotFoundError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 after a problem told on stderr, 128 and the
    number of the signal that ended it."""
    if argv is None:
        keep_programs()
    try:
        args, rest = parser().parse_known_args(argv)
        args.may_restart = argv is None
        if args.run in (do.train, do.compile_programs, do.precompute):
            args.overrides = read_overrides(rest)
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


def parser() -> Parser:
    """The command line."""
    top = Parser(prog="latentum", description="One model that reasons in text and latent images.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_model_commands(commands)
    command = add_command(commands, "train", do.train)
    command.add_argument("--config", required=True, help="a recipe's name, or a path to its .py")
    command.add_argument("--workdir", required=True, type=Path, help="where the run is kept")
    text = "of several processes: where the first listens, or `auto` for what a scheduler says"
    command.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    command.add_argument("--processes", type=positive, metavar="N", help="how many there are")
    command.add_argument("--process", type=whole_number, metavar="I", help="which this is, from 0")
    command.epilog = "--config.KEY=VALUE overrides a value, such as --config.steps=100"
    command = add_command(commands, "precompute", do.precompute, checkpoint=DEFAULT)
    command.add_argument("--config", required=True, help="a recipe, for its data")
    command.add_argument("--out", required=True, type=Path, metavar="DIR")
    command.add_argument("--batch", type=positive, default=32, help="pictures at a time")
    command.add_argument("--shard", type=positive, default=4096, help="samples of a shard")
    text = "also compute the latents of this decoder's VAE"
    command.add_argument("--decoder", type=Path, metavar="DIR", help=text)
    command.epilog = "--config.data.KEY=VALUE says where the data is"
    command = add_command(commands, "embed", do.embed, checkpoint=DEFAULT)
    text = 'texts to embed, {"id", "text"} a line'
    command.add_argument("--texts", type=Path, metavar="FILE.jsonl", help=text)
    text = "pictures to embed; the id of one is its file's name"
    command.add_argument("--images", type=Path, metavar="DIR", help=text)
    text = "a sentence encoder (BERT) for the texts, instead of --checkpoint"
    command.add_argument("--sentences", type=Path, metavar="DIR", help=text)
    command.add_argument("--out", required=True, type=Path, metavar="DIR")
    command = add_command(commands, "report", do.report)
    command.add_argument("workdir", type=Path, metavar="WORKDIR")
    add_evals(commands)
    add_miniature(commands)
    _add_convert(commands)
    _add_compile(commands)
    command = add_command(commands, "bench", do.bench)
    text = (
        "compile for this device, which need not be here (h100, v5e, v5p, v6e), instead of timing"
    )
    command.add_argument("--target", metavar="NAME", help=text)
    text = "(default: tiny; with --target, full)"
    command.add_argument("--size", choices=("tiny", "small", "full"), help=text)
    command.add_argument("--batch", type=counts, default=(1,), metavar="1,4")
    text = "of weights and arithmetic (default: float32 on a CPU, bfloat16 elsewhere)"
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help=text)
    add_weights(command)
    command.add_argument("--repeats", type=positive, default=3, metavar="N")
    text = "of encode, generate, answer, plan, decode those to time (default: all)"
    command.add_argument("--paths", metavar="generate,...", help=text)
    command.add_argument("--json", type=Path, metavar="FILE")
    command = add_command(commands, "demo", do.demo, checkpoint=DEFAULT)
    add_decoder(command)
    command.add_argument("--out", type=Path, default=Path("latentum-demo"), metavar="DIR")
    command.add_argument("--seed", type=whole_number, default=0)
    return top


def _add_model_commands(commands: Any) -> None:
    command = add_command(commands, "answer", do.answer, checkpoint=DEFAULT)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument("--features", choices=("continuous", "quantized"), default="continuous")
    text = "InternVL's tiles; 1, the default, squeezes the picture into one"
    command.add_argument("--max-tiles", type=positive, default=1, metavar="N", help=text)

    command = add_command(commands, "generate", do.generate, checkpoint=DEFAULT)
    command.add_argument("prompts", nargs="+", metavar="PROMPT")
    command.add_argument("--guidance", type=number, default=3.0, help="above 1 it is on")
    add_sampling(command)
    command.add_argument("--out", type=Path, default=Path("codes.npz"), metavar="CODES.npz")
    text = "draws them as PNG, by the pixel decoder"
    command.add_argument("--images", type=Path, metavar="DIR", help=text)
    command.add_argument("--steps", type=positive, default=25, help="of the pixel decoder")
    add_decoder(command)
    add_question(command)

    command = add_command(commands, "describe", do.describe, checkpoint=DEFAULT)
    command.add_argument("codes", type=Path, metavar="CODES.npz")
    add_question(command)

    command = add_command(commands, "plan", do.plan, checkpoint=DEFAULT)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--mode", choices=("fine", "coarse"), default="fine")
    command.add_argument("--max-steps", type=positive, default=12)
    command.add_argument("--seed", type=whole_number, help="samples instead of the likeliest")
    text = "draws what was imagined as PNG and GIF, beside the simulator's pictures"
    command.add_argument("--frames", type=Path, metavar="DIR", help=text)
    add_decoder(command)

    command = add_command(commands, "rollout", do.roll_out, checkpoint=WORLD)
    text = "the frames seen so far, oldest first: 4 for a published world model"
    command.add_argument("frames", nargs="*", type=Path, metavar="FRAME", help=text)
    text = "frames and actions of this folder, as NWM keeps RECON, from frame --first on"
    command.add_argument("--trajectory", type=Path, metavar="DIR", help=text)
    command.add_argument("--first", type=whole_number, default=0, metavar="N")
    text = "with --trajectory: frames to come (default: as many as it has)"
    command.add_argument("--steps", type=positive, metavar="N", help=text)
    text = "one a line, those between the frames first: Action(dx, dy, dyaw) or words"
    command.add_argument("--actions", type=Path, metavar="FILE", help=text)
    text = "what a predicted frame is seen as: its codes, or its decoded picture, as published"
    command.add_argument("--recurrence", choices=("latent", "pixels"), default="latent", help=text)
    text = "which frames are drawn as PNG and GIF"
    command.add_argument("--draw", choices=("all", "last", "none"), default="all", help=text)
    command.add_argument("--decode-steps", type=positive, default=25, help="of the pixel decoder")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_sampling(command)
    add_decoder(command)


def _add_compile(commands: Any) -> None:
    command = add_command(commands, "compile", do.compile_programs, checkpoint=DEFAULT)
    command.add_argument("--batch", type=counts, default=(1,), metavar="1,4")
    command.add_argument("--guidance", type=number, default=3.0, help="of generate")
    text = "as long as those to come: programs are for prompts of up to 32, 64, ... tokens"
    command.add_argument("--question", default="Describe the image.", help=text)
    text = "compile the training step of this recipe for --devices of --target instead"
    command.add_argument("--config", metavar="NAME", help=text)
    command.add_argument("--target", default="h100", help="h100 (default), v5e, v5p or v6e")
    command.add_argument("--devices", type=positive, default=8, metavar="N")
    command.add_argument("--json", type=Path, metavar="FILE", help="of --config")
    command.epilog = "--config.KEY=VALUE overrides a value of the recipe"


def _add_convert(commands: Any) -> None:
    command = add_command(commands, "convert", do.convert)
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


if __name__ == "__main__":
    sys.exit(main())
