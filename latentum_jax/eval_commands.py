"""What each benchmark of `latentum eval` does. Nothing heavy is imported before one needs it."""

import argparse

from latentum_jax.commands import load_decoder, load_model, not_a_file


def eval_vsp(args: argparse.Namespace) -> None:
    """Solves FrozenLake mazes and counts the successes."""
    from latentum_jax.data.frozenlake.maps import load_maps
    from latentum_jax.data.frozenlake.mazes import load_mazes
    from latentum_jax.eval import vsp

    not_a_file(args.out)
    unreadable: dict[str, str] = {}
    if args.mazes is not None and args.mazes.is_dir():
        mazes, unreadable = load_maps(args.mazes)
    elif args.mazes is not None:
        mazes = load_mazes(args.mazes)
    else:
        mazes = vsp.held_out(args.levels, args.num, args.seed)
    model = load_model(args)
    given = {"checkpoint": args.checkpoint, "unreadable": unreadable}
    results = vsp.evaluate(model, mazes, args.mode, args.out, **given)
    print(vsp.table(results))


def eval_questions(args: argparse.Namespace) -> None:
    """Asks questions about held-out mazes and counts the right answers."""
    from latentum_jax.eval import questions

    not_a_file(args.out)
    results = questions.evaluate(
        load_model(args), args.levels, args.num, args.seed, args.out, checkpoint=args.checkpoint
    )
    print(questions.table(results))


def eval_consistency(args: argparse.Namespace) -> None:
    """Draws captions and compares what the model reads in its images with what it was told."""
    from latentum_jax.eval import consistency
    from latentum_jax.generate.sampling import Sampling

    not_a_file(args.out)
    if args.captions is not None:
        captions = consistency.read_captions(args.captions)
    else:
        captions = consistency.held_out_captions(args.levels, args.num, args.seed)
    results = consistency.evaluate(
        load_model(args),
        captions,
        args.out,
        checkpoint=args.checkpoint,
        question=args.question,
        sampling=Sampling(temperature=args.temperature),
        guidance=args.guidance,
        seed=args.seed,
    )
    print(consistency.table([results]), end="")


def eval_quantizers(args: argparse.Namespace) -> None:
    """Compares quantizers trained on one model, by the answers given from quantized features."""
    from latentum_jax.eval import quantizers

    not_a_file(args.out)
    results = quantizers.compare(args.checkpoints, args.levels, args.num, args.seed, args.out)
    print(quantizers.table(results), end="")


def eval_frames(args: argparse.Namespace) -> None:
    """Draws held-out mazes from their codes and reads the pictures."""
    from latentum_jax.eval import frames

    not_a_file(args.out)
    model, decoder = load_model(args), load_decoder(args)
    results = frames.evaluate(
        model, decoder, args.levels, args.num, args.seed, args.out, checkpoint=args.checkpoint
    )
    print(frames.table(results))
