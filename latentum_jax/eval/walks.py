"""A rollout from the command line: frames and actions in, codes and pictures out."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.recon import read_trajectory
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.data.navigation.words import Action, action_text
from latentum_jax.eval.codes import write_codes
from latentum_jax.eval.frames import write_frames, write_pictures
from latentum_jax.generate.sampling import Sampling
from latentum_jax.images import load_image
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import rollout, step_seeds


@dataclasses.dataclass(frozen=True)
class Walk:
    """Frames seen, the actions between them and those to come, and what came of these if known."""

    frames: list[Path]
    actions: list[Action | str]
    after: list[Path]


def read_walk(
    frames: Sequence[Path],
    trajectory: Path | None,
    actions: Path | None,
    first: int = 0,
    steps: int | None = None,
) -> Walk:
    """What a rollout begins with: frames and a file of actions, or a trajectory's own.

    With both a trajectory and actions, these are what is done after its first 4 frames.

    Raises ValueError where neither or too little is given, a file is missing or an action is none.
    """
    if trajectory is None:
        if not frames or actions is None:
            raise ValueError("expected frames and --actions FILE, or --trajectory DIR")
        asked = _read_actions(actions)
        if len(asked) < len(frames):
            raise ValueError(
                f"{actions} has {len(asked)} actions, expected at least one for each of "
                f"{len(frames)} frames: those between them, then those to come"
            )
        return Walk(list(frames), asked, [])
    if frames:
        raise ValueError("frames and --trajectory are given, expected one of them")
    found = read_trajectory(trajectory)
    between = actions_between(found.poses)[first:]
    seen, rest = list(found.frames[first:]), between[CONTEXT - 1 :]
    if len(seen) < CONTEXT:
        raise ValueError(
            f"{trajectory} has {len(seen)} frames from {first} on, expected {CONTEXT} at least"
        )
    if actions is not None:
        rest = _read_actions(actions)
    ahead = len(rest) if steps is None else steps
    if not 0 < ahead <= len(rest):
        raise ValueError(
            f"{trajectory} has {len(rest)} actions after its first {CONTEXT} frames from {first} "
            f"on, {ahead} are asked for"
        )
    after = [] if actions is not None else seen[CONTEXT : CONTEXT + ahead]
    return Walk(seen[:CONTEXT], [*between[: CONTEXT - 1], *rest[:ahead]], after)


def _read_actions(file: Path) -> list[Action | str]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(found, 1):
        try:
            action_text(line)
        except ValueError as error:
            raise ValueError(f"{file}, action {number}: {error}") from error
    return list(found)


def roll_out(
    model: LatentUM,
    decoder: PixelDecoder | None,
    walk: Walk,
    out: Path,
    *,
    through_pixels: bool,
    draw: Literal["all", "last", "none"],
    decode_steps: int,
    sampling: Sampling,
    seed: int,
) -> None:
    """Writes `out`/codes.npz, an action a latent image, and what is drawn of them.

    "all" makes rollout.png and rollout.gif, beside the true frames where they are known; "last"
    makes last.png. A decoder that takes references is given as many of the frames seen.
    """
    known = 0 if decoder is None else decoder.config.mmdit.references
    decode = None if decoder is None else functools.partial(decoder.decode, steps=decode_steps)
    if through_pixels and known != len(walk.frames):
        raise ValueError(
            f"this decoder takes {known} reference frames, {len(walk.frames)} frames are given"
        )
    if known > len(walk.frames):
        raise ValueError(f"this decoder takes {known} frames, {len(walk.frames)} are given")
    rows = [walk.frames], [walk.actions]
    settings = {"sampling": sampling, "seeds": [seed]}
    codes, pictures = rollout(model, *rows, decode if through_pixels else None, **settings)
    steps = codes.shape[1]
    write_codes(out / "codes.npz", codes[0], [action_text(a) for a in walk.actions[-steps:]])
    if draw == "none":
        return
    some = range(steps) if draw == "all" else [steps - 1]
    if pictures is None:
        seeds = step_seeds([seed], steps)[:, 0]
        references = walk.frames[len(walk.frames) - known :] if known else None
        drawn = [
            decode(model.z_q(codes[0, i : i + 1]), references=references, seeds=[int(seeds[i])])[0]
            for i in some
        ]
    else:
        drawn = [pictures[0, i] for i in some]
    if draw == "last":
        write_pictures(out / "last", np.stack(drawn))
        return
    size = drawn[0].shape[1::-1]
    true = [np.asarray(load_image(frame).resize(size)) for frame in walk.after]
    write_frames(out / "rollout", true, drawn)
