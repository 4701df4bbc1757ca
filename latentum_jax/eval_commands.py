"""What each benchmark of `latentum eval` does. Nothing heavy is imported before one needs it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentum_jax.commands import load_decoder, load_model, not_a_file


def eval_vsp(args: argparse.Namespace) -> None:
    """Solves FrozenLake mazes and counts the successes."""
    from latentum_jax.data.frozenlake.maps import load_maps
    from latentum_jax.data.frozenlake.mazes import load_mazes
    from latentum_jax.eval import runs, vsp

    not_a_file(args.out)
    unreadable: dict[str, str] = {}
    if args.mazes is not None and args.mazes.is_dir():
        mazes, unreadable = load_maps(args.mazes)
    elif args.mazes is not None:
        mazes = load_mazes(args.mazes)
    else:
        mazes = vsp.held_out(args.levels, args.num, args.seed)
    if not mazes:
        raise ValueError("there are no mazes to solve")
    model, grids = load_model(args), "\n".join(" ".join(maze.grid) for maze in mazes)
    settings = {"benchmark": "vsp", **_of_model(args), "mode": args.mode}
    settings["mazes"] = runs.digest(grids.encode())
    with runs.run_in(args.out, settings) as run:
        results = vsp.evaluate(model, mazes, args.mode, run, unreadable=unreadable)
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


def eval_geneval(args: argparse.Namespace) -> None:
    """Draws GenEval's prompts into its own layout, or scores what a detector saw in them."""
    from latentum_jax.eval import geneval, runs
    from latentum_jax.files import write_json, write_text
    from latentum_jax.pixel_decoder import find_decoder

    not_a_file(args.out)
    prompts = geneval.read_prompts(args.prompts)
    shared = {"benchmark": "geneval", "data": runs.digest_of([args.prompts])}
    shared["samples"] = args.samples
    if args.detections is not None:
        detections = geneval.read_detections(args.detections)
        if before := runs.settings_of(args.out):
            runs.same_run(args.out, before, shared, shared)
        results = geneval.evaluate(prompts, detections, args.samples)
        write_json(args.out / "results.json", {**shared, **results})
        write_text(args.out / "table.md", geneval.table(results))
        print(geneval.table(results), end="")
        return
    drawing = {**_drawing(args), "steps": args.steps}
    model, decoder = load_model(args), load_decoder(args)
    settings = {**shared, **_of_model(args), **_told(drawing)}
    if args.decoder is not None:
        folder = find_decoder(args.decoder)
        settings["decoder"] = runs.model_settings(str(args.decoder), folder, None)["model"]
    with runs.run_in(args.out, settings) as run:
        geneval.draw(model, decoder, prompts, run, samples=args.samples, **drawing)
    count = len(prompts) * args.samples
    print(f"{count} pictures in {args.out}: --detections FILE.jsonl scores what is seen in them")


def eval_geneval2(args: argparse.Namespace) -> None:
    """Draws GenEval2's prompts and asks the model what it drew (Soft-TIFA), or takes answers."""
    from latentum_jax.eval import geneval2, runs

    not_a_file(args.out)
    prompts = geneval2.read_prompts(args.data)
    settings = {"benchmark": "geneval2", "data": runs.digest_of([args.data])}
    if args.answers is not None:
        answers = geneval2.read_answers(args.answers, prompts)
        settings["answers"] = runs.digest_of([args.answers])
    else:
        drawing, model = _drawing(args), load_model(args)
        settings |= {**_of_model(args), **_told(drawing)}
    with runs.run_in(args.out, settings) as run:
        if args.answers is None:
            answers = geneval2.judge_own(model, prompts, run, **drawing)
        results = geneval2.score(prompts, answers)
        run.finish(results, geneval2.table(results))
    print(geneval2.table(results), end="")


def eval_pope(args: argparse.Namespace) -> None:
    """Asks POPE's questions for objects that are, or are not, in a picture."""
    from latentum_jax.eval import pope, runs

    not_a_file(args.out)
    questions = pope.read_questions(args.data, args.images)
    settings = _asking(args, "pope", args.data)
    model = load_model(args)
    with runs.run_in(args.out, settings) as run:
        results = pope.evaluate(model, questions, args.features, run)
    print(pope.table(results["features"]), end="")


def eval_mme(args: argparse.Namespace) -> None:
    """Asks MME's pairs of questions, of ten tasks of perception and four of cognition."""
    from latentum_jax.eval import mme, runs

    not_a_file(args.out)
    questions = mme.read_questions(args.data)
    settings = _asking(args, "mme", mme.files_of(args.data))
    model = load_model(args)
    with runs.run_in(args.out, settings) as run:
        results = mme.evaluate(model, questions, args.features, run)
    print(mme.table(results["features"]), end="")


def eval_mcq(args: argparse.Namespace) -> None:
    """Asks multiple-choice questions in the forms of SEED-Bench, MMBench and MMMU."""
    from latentum_jax.eval import mcq, runs

    not_a_file(args.out)
    given = mcq.read_questions(args.data, args.images, circular=args.circular)
    settings = _asking(args, "mcq", [args.data])
    settings |= {"free": args.free, "circular": args.circular}
    model = load_model(args)
    with runs.run_in(args.out, settings) as run:
        results = mcq.evaluate(model, given, args.features, run, free=args.free)
    print(mcq.table(results["features"], given.left_out), end="")


def eval_recon(args: argparse.Namespace) -> None:
    """Plans towards pictures in the world model, by the cross-entropy method."""
    import dataclasses
    import functools

    from latentum_jax.data.navigation.recon import Trajectories
    from latentum_jax.data.navigation.samples import CONTEXT
    from latentum_jax.eval import recon, runs
    from latentum_jax.eval.cem import CEM, SMALL_WORLD
    from latentum_jax.generate.sampling import Sampling

    not_a_file(args.out)
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    given = {f.name: v for f in dataclasses.fields(CEM) if (v := getattr(args, f.name)) is not None}
    search = dataclasses.replace(SMALL_WORLD if args.data is None else CEM(), **given)
    data, unreadable = None, {}
    if args.data is None:
        episodes = recon.held_out(args.num, args.seed, args.steps, args.stride)
    else:
        windows = Trajectories(args.data, size=CONTEXT + args.steps, stride=args.stride)
        episodes, unreadable = recon.of_folder(windows, args.num, args.seed)
        data = recon.digest_of(episodes)
    settings = {
        "benchmark": "recon",
        **_of_model(args),
        "data": data,
        **{name: getattr(args, name) for name in ("num", "stride", "seed")},
        "search": dataclasses.asdict(search),
        "sampling": dataclasses.asdict(sampling),
        "cost": "latent" if args.lpips is None else "lpips",
    }
    model, cost = load_model(args), recon.latent_cost
    if args.lpips is not None:
        from latentum_jax.convert.lpips import read_lpips
        from latentum_jax.eval.lpips import lpips

        distance = functools.partial(lpips, read_lpips(*args.lpips, allow_pickle=args.allow_pickle))
        decode = functools.partial(load_decoder(args).decode, steps=args.decode_steps)
        settings |= {"decoder": str(args.decoder), "decode_steps": args.decode_steps}
        cost = functools.partial(recon.pixel_cost, decode=decode, distance=distance)
    with runs.run_in(args.out, settings) as run:
        results = recon.evaluate(model, episodes, run, search, args.seed, cost, sampling)
        results |= {"unreadable": unreadable} if unreadable else {}
        run.finish(results, recon.table(results))
    print(recon.table(results), end="")


def miniature(args: argparse.Namespace) -> None:
    """Measures the paper's comparisons at tiny size over seeds, and reports what they say."""
    from latentum_jax.train.memory import restart_with_huge_pages

    not_a_file(args.out)
    if args.may_restart:  # a part of it is training
        restart_with_huge_pages()
    import dataclasses

    from latentum_jax.miniature.part import Sizes
    from latentum_jax.miniature.report import run

    sizes = Sizes(**{size.name: getattr(args, size.name) for size in dataclasses.fields(Sizes)})
    models = {"mazes": args.checkpoint, "world": args.world}
    print(f"report in {run(args.parts, models, sizes, args.seeds, args.out)}")


def _of_model(args: argparse.Namespace) -> dict[str, Any]:
    from latentum_jax.eval.runs import model_settings
    from latentum_jax.pretrained import find_model

    return model_settings(args.checkpoint, find_model(args.checkpoint), args.weights)


def _asking(args: argparse.Namespace, benchmark: str, files: Sequence[Path]) -> dict[str, Any]:
    """The settings of a run that asks about given pictures."""
    from latentum_jax.eval.runs import digest_of

    images = getattr(args, "images", None)
    return {
        "benchmark": benchmark,
        **_of_model(args),
        "data": digest_of(files),
        "images": None if images is None else str(images),
        "features": args.features,
    }


def _drawing(args: argparse.Namespace) -> dict[str, Any]:
    """How a benchmark's pictures are drawn."""
    from latentum_jax.generate.sampling import Sampling

    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    return {"guidance": args.guidance, "sampling": sampling, "seed": args.seed}


def _told(drawing: dict[str, Any]) -> dict[str, Any]:
    """The same as a run's settings, in JSON."""
    import dataclasses

    return {**drawing, "sampling": dataclasses.asdict(drawing["sampling"])}
