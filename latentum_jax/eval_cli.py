"""The benchmarks of `latentum eval` and what each of them takes."""

from pathlib import Path
from typing import Any

from latentum_jax import eval_commands as do
from latentum_jax.arguments import (
    Parser,
    add_command,
    add_decoder,
    add_question,
    levels,
    number,
    positive,
    whole_number,
)


def add_evals(commands: Any) -> None:
    """`eval` and its benchmarks."""
    evals = commands.add_parser("eval", help="Measures a model.").add_subparsers(
        required=True, metavar="BENCHMARK"
    )
    _add_maze_evals(evals)


def _add_maze_evals(evals: Any) -> None:
    command = add_command(evals, "vsp", do.eval_vsp, checkpoint=True)
    command.add_argument("--mode", choices=("fine", "coarse"), default="fine")
    text = "mazes of your own, or a folder of the published maps (level3, level4, ...)"
    _add_mazes(command).add_argument("--mazes", type=Path, metavar="FILE.jsonl", help=text)
    command = add_command(evals, "questions", do.eval_questions, checkpoint=True)
    _add_mazes(command, num=40)
    command = add_command(evals, "consistency", do.eval_consistency, checkpoint=True)
    text = "captions to draw, one a line, instead of those of held-out mazes"
    _add_mazes(command).add_argument("--captions", type=Path, metavar="FILE", help=text)
    command.add_argument("--guidance", type=number, default=3.0, help="above 1 it is on")
    text = "of the codes; 0, the default, takes the likeliest"
    command.add_argument("--temperature", type=number, default=0.0, help=text)
    add_question(command)
    command = add_command(evals, "quantizers", do.eval_quantizers)
    command.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    _add_mazes(command, num=40)
    command = add_command(evals, "frames", do.eval_frames, checkpoint=True)
    add_decoder(command)
    _add_mazes(command)


def _add_mazes(command: Parser, num: int = 100) -> Any:
    """Arguments for held-out mazes; returns the group of what stands in for `--levels`."""
    group = command.add_mutually_exclusive_group()
    group.add_argument("--levels", type=levels, default=(3, 4, 5, 6), metavar="3,4,5,6")
    command.add_argument("--num", type=positive, default=num, help="how many (of each level)")
    command.add_argument("--seed", type=whole_number, default=0)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    return group
