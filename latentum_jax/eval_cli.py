"""The benchmarks of `latentum eval` and what each of them takes."""

import argparse
from pathlib import Path
from typing import Any

from latentum_jax import eval_commands as do
from latentum_jax.arguments import (
    DEFAULT,
    WORLD,
    Parser,
    add_command,
    add_decoder,
    add_question,
    add_sampling,
    levels,
    number,
    numbers,
    positive,
    seeds,
    whole_number,
)


def add_evals(commands: Any) -> None:
    """`eval` and its benchmarks."""
    evals = commands.add_parser("eval", help="Measures a model.").add_subparsers(
        required=True, metavar="BENCHMARK"
    )
    _add_maze_evals(evals)
    _add_drawing_evals(evals)
    _add_asking_evals(evals)
    _add_recon(evals)


def _add_maze_evals(evals: Any) -> None:
    command = add_command(evals, "vsp", do.eval_vsp, checkpoint=DEFAULT)
    command.add_argument("--mode", choices=("fine", "coarse"), default="fine")
    text = "mazes of your own, or a folder of the published maps (level3, level4, ...)"
    _add_mazes(command).add_argument("--mazes", type=Path, metavar="FILE.jsonl", help=text)
    command = add_command(evals, "questions", do.eval_questions, checkpoint=DEFAULT)
    _add_mazes(command, num=40)
    command = add_command(evals, "consistency", do.eval_consistency, checkpoint=DEFAULT)
    text = "captions to draw, one a line, instead of those of held-out mazes"
    _add_mazes(command).add_argument("--captions", type=Path, metavar="FILE", help=text)
    command.add_argument("--guidance", type=number, default=3.0, help="above 1 it is on")
    text = "of the codes; 0, the default, takes the likeliest"
    command.add_argument("--temperature", type=number, default=0.0, help=text)
    add_question(command)
    command = add_command(evals, "quantizers", do.eval_quantizers)
    command.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    _add_mazes(command, num=40)
    command = add_command(evals, "frames", do.eval_frames, checkpoint=DEFAULT)
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


def _add_drawing_evals(evals: Any) -> None:
    command = add_command(evals, "geneval", do.eval_geneval, checkpoint=DEFAULT)
    text = "GenEval's metadata, a prompt a line"
    command.add_argument("--prompts", type=Path, required=True, metavar="FILE.jsonl", help=text)
    text = "what a detector saw, a picture a line: scores instead of drawing"
    command.add_argument("--detections", type=Path, metavar="FILE.jsonl", help=text)
    command.add_argument("--samples", type=positive, default=4, help="pictures of a prompt")
    command.add_argument("--steps", type=positive, default=25, help="of the pixel decoder")
    add_decoder(command)
    _add_drawing(command)
    command = add_command(evals, "geneval2", do.eval_geneval2, checkpoint=DEFAULT)
    text = "GenEval2's prompts and questions, which are not part of this package"
    command.add_argument("--data", type=Path, required=True, metavar="FILE.jsonl", help=text)
    text = "probabilities of right answers by another judge, a prompt a line"
    command.add_argument("--answers", type=Path, metavar="FILE.jsonl", help=text)
    _add_drawing(command)


def _add_drawing(command: Parser) -> None:
    """How pictures are drawn; the defaults are those of the paper's benchmarks."""
    command.add_argument("--guidance", type=number, default=3.0, help="above 1 it is on")
    command.add_argument("--temperature", type=number, default=0.5)
    command.add_argument("--top-k", type=whole_number, default=32)
    command.add_argument("--top-p", type=number, default=0.95)
    command.add_argument("--seed", type=whole_number, default=0)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_asking_evals(evals: Any) -> None:
    command = add_command(evals, "pope", do.eval_pope, checkpoint=DEFAULT)
    text = "its questions; the name of a file has its category: random, popular, adversarial"
    command.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help=text)
    command.add_argument("--images", type=Path, required=True, metavar="DIR")
    _add_features(command)
    command = add_command(evals, "mme", do.eval_mme, checkpoint=DEFAULT)
    text = "a folder a task, or TASK.txt beside it"
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help=text)
    _add_features(command)
    command = add_command(evals, "mcq", do.eval_mcq, checkpoint=DEFAULT)
    text = "questions as .json, .jsonl or .tsv"
    command.add_argument("--data", type=Path, required=True, metavar="FILE", help=text)
    text = "where the pictures are that the questions name"
    command.add_argument("--images", type=Path, metavar="DIR", help=text)
    text = "reads the letter from what is said instead of comparing letters"
    command.add_argument("--free", action="store_true", help=text)
    text = "asks each question with its options in every rotation; all must be answered rightly"
    command.add_argument("--circular", action="store_true", help=text)
    _add_features(command)


def _add_features(command: Parser) -> None:
    """What a picture is seen through, and where results go."""
    ways = ("continuous", "quantized", "both")
    command.add_argument("--features", choices=ways, default="continuous")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_recon(evals: Any) -> None:
    command = add_command(evals, "recon", do.eval_recon, checkpoint=WORLD)
    text = "trajectories as NWM keeps RECON (default: held-out walks of the small world)"
    command.add_argument("--data", type=Path, metavar="DIR", help=text)
    command.add_argument("--num", type=positive, default=100, help="episodes")
    command.add_argument("--stride", type=positive, default=1, help="frames from one to the next")
    command.add_argument(
        "--steps", type=positive, default=8, help="from the last frame to the goal"
    )
    told = lambda text, recon, small: f"{text} (default {recon}; without --data {small})"  # noqa: E731
    text = told("candidates of a round", 120, 40)
    command.add_argument("--samples", type=positive, help=text)
    text = told("that make the next round", 5, 6)
    command.add_argument("--elites", type=positive, help=text)
    command.add_argument("--iterations", type=positive, help=told("rounds", 1, 2))
    text = told("of a candidate, averaged", 3, 1)
    command.add_argument("--rollouts", dest="repeats", type=positive, help=text)
    text = "straight on and a turn in the end, as published, or the whole action over and over"
    command.add_argument("--path", choices=("line", "arc"), help=told(text, "line", "arc"))
    text = told("candidates of whole centimeters and degrees", "no", "yes")
    command.add_argument("--whole", action=argparse.BooleanOptionalAction, help=text)
    text = told("of the first candidates, meters and degrees", "RECON's", "its own")
    command.add_argument("--mean", type=numbers, metavar="DX,DY,DYAW", help=text)
    command.add_argument("--std", type=numbers, metavar="DX,DY,DYAW", help=text)
    text = (
        "AlexNet's weights and LPIPS's of its channels: costs are of decoded frames, as published"
    )
    command.add_argument("--lpips", type=Path, nargs=2, metavar=("ALEXNET", "CHANNELS"), help=text)
    command.add_argument("--allow-pickle", action="store_true", help="read torch's own files too")
    command.add_argument("--decode-steps", type=positive, default=25, help="of the pixel decoder")
    add_decoder(command)
    add_sampling(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def add_miniature(commands: Any) -> None:
    """`miniature`; its sizes are fields of `miniature.part.Sizes`."""
    command = add_command(commands, "miniature", do.miniature)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    text = "of fine_coarse, pixels, recache, quantizers, world, cem those to measure (default: all)"
    command.add_argument("--parts", metavar="pixels,...", help=text)
    command.add_argument("--seeds", type=seeds, default=(0, 1, 2), metavar="0,1,2")
    text = "of the parts about mazes (default %(default)s)"
    command.add_argument("--checkpoint", default=DEFAULT, help=text)
    text = "of those about the small world (default %(default)s)"
    command.add_argument("--world", default=WORLD, metavar="CHECKPOINT", help=text)
    command.add_argument("--levels", type=levels, default=(3, 4, 5, 6), metavar="3,4,5,6")
    for name, default, text in (
        ("mazes", 40, "of each level"),
        ("steps", 300, "that a quantizer trains"),
        ("states", 200, "asked about, of each kind of question"),
        ("walks", 24, "imagined through rooms of the small world"),
        ("horizon", 16, "frames imagined of a walk"),
        ("episodes", 20, "planned towards a picture"),
        ("candidates", 40, "paths that are tried for each"),
        ("ahead", 8, "steps of such a path"),
        ("decode-steps", 4, "of the small world's pixel decoder"),
    ):
        told = f"{text} (default %(default)s)"
        command.add_argument(f"--{name}", type=positive, default=default, help=told)
