"""What may stand on the command line."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT = "frozenlake-tiny"
WORLD = "nav-tiny"  # of the small world


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> None:
        raise ValueError(message)


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def whole_number(text: str) -> int:
    """A whole number that a seed may be: from 0, below 2^32."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if whole_number(text) < 1:
        raise argparse.ArgumentTypeError("expected at least 1, got 0")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """ "1,4" as (1, 4)."""
    return tuple(dict.fromkeys(positive(part.strip()) for part in text.split(",")))


def seeds(text: str) -> tuple[int, ...]:
    """ "0,1,2" as (0, 1, 2)."""
    return tuple(dict.fromkeys(whole_number(part.strip()) for part in text.split(",")))


def levels(text: str) -> tuple[int, ...]:
    """ "3,4" as (3, 4)."""
    found = tuple(part.strip() for part in text.split(","))
    if odd := [part for part in found if part not in "345678" or len(part) != 1]:
        raise argparse.ArgumentTypeError(f"levels are 3 to 8, separated by commas, got {odd[0]!r}")
    return tuple(dict.fromkeys(int(part) for part in found))


def numbers(text: str) -> tuple[float, ...]:
    """ "0.2,0,-18" as three numbers."""
    found = tuple(number(part) for part in text.split(","))
    if len(found) != 3:
        raise argparse.ArgumentTypeError(f"expected DX,DY,DYAW, got {text!r}")
    return found


def add_command(
    commands: Any, name: str, run: Callable, *, checkpoint: str | None = None
) -> Parser:
    """A command that calls `run`, whose docstring is its help; with `--checkpoint`, which is that
    one by default, where wanted."""
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    if checkpoint is not None:
        text = "a model folder, a finished workdir or a bundled name (default %(default)s)"
        command.add_argument("--checkpoint", default=checkpoint, help=text)
        add_weights(command)
    return command


def add_weights(command: Parser) -> None:
    """`--weights`."""
    text = "hold the weights that decoding reads in 8 bits"
    command.add_argument("--weights", choices=("int8", "fp8"), help=text)


def add_decoder(command: Parser) -> None:
    """`--decoder`."""
    text = "a pixel decoder's folder (default: the one that comes with the model)"
    command.add_argument("--decoder", type=Path, metavar="DIR", help=text)


def add_question(command: Parser) -> None:
    """`--question` about latent images."""
    text = "asked of each latent image (default: %(default)s)"
    command.add_argument("--question", default="Describe the maze.", help=text)


def add_sampling(command: Parser) -> None:
    """How codes are drawn; the defaults are those of the public code."""
    command.add_argument("--temperature", type=number, default=0.9)
    command.add_argument("--top-k", type=whole_number, default=50)
    command.add_argument("--top-p", type=number, default=0.95)
    command.add_argument("--seed", type=whole_number, default=0)
