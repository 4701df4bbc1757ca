"""Planning towards a picture in the world model: navigation on RECON (section 4, appendix D).

An episode is a window of a trajectory: the frames seen so far, and a goal, the frame that came some
steps later. The cross-entropy method looks for the path whose last imagined frame is nearest to the
goal; the path is then compared with the way that was really gone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from latentum_jax.data.faults import BadSample
from latentum_jax.data.navigation.motion import Pose, actions_between, compose
from latentum_jax.data.navigation.recon import Trajectories
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.data.navigation.walks import walk
from latentum_jax.data.navigation.words import Action
from latentum_jax.data.navigation.world import draw_all, random_room
from latentum_jax.eval.cem import CEM, Planned, path_of, search
from latentum_jax.eval.runs import Run, digest, interval, markdown
from latentum_jax.eval.trajectory import ate, rpe
from latentum_jax.generate.sampling import SAMPLED, Sampling
from latentum_jax.images import ImageLike, load_image
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import Decode, latent_features, rollout

WAYS = ("planned", "straight", "random")
METRICS = ("ate", "rpe", "position", "yaw")  # meters, meters, meters, degrees
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pictures [N P P 3], goal [1 P P 3]


@dataclasses.dataclass(frozen=True)
class Episode:
    """Frames seen, the actions between them, the goal, and the poses [W + 1 3] from the last seen
    frame to the goal."""

    key: str
    frames: list[ImageLike]
    actions: list[Action]
    goal: ImageLike
    poses: Float[np.ndarray, "W 3"]


def held_out(num: int, seed: int, steps: int, stride: int = 1) -> list[Episode]:
    """Episodes of `held_out_walks`."""
    walks = held_out_walks(num, seed, steps, stride)
    return [
        _episode(f"{seed}/{number}", list(frames), poses)
        for number, (frames, poses) in enumerate(walks)
    ]


def held_out_walks(
    num: int, seed: int, steps: int, stride: int = 1
) -> Iterator[tuple[UInt8[np.ndarray, "T P P 3"], Float[np.ndarray, "T 3"]]]:
    """Frames and poses of walks through rooms of the small world that no training ever sees: those
    of the context and of `steps` more."""
    rng = np.random.default_rng((seed, 0x6F))
    for _ in range(num):
        room = random_room(rng, "test")
        poses = walk(rng, room, (CONTEXT - 1 + steps) * stride)[::stride]
        yield draw_all(room, poses), poses


def of_folder(windows: Trajectories, num: int, seed: int) -> tuple[list[Episode], dict[str, str]]:
    """Windows of trajectories on disk, drawn without replacement, and what was drawn and is broken:
    where it is, and why.

    Raises ValueError where there are fewer than `num` good ones.
    """
    found: list[Episode] = []
    unreadable: dict[str, str] = {}
    for index in np.random.default_rng(seed).permutation(len(windows)).tolist():
        try:
            window = windows[index]
        except BadSample as error:
            unreadable[error.where] = error.reason
            continue
        found.append(_episode(window.where, list(window.frames), window.poses))
        if len(found) == num:
            return found, unreadable
    raise ValueError(f"{windows.folder} has {len(found)} good windows, {num} are asked for")


def digest_of(episodes: Sequence[Episode]) -> str:
    """Tells episodes from others, wherever their files lie: by their poses and frames' names."""
    names = [
        str(Path(*Path(x).parts[-2:])) for e in episodes for x in e.frames if isinstance(x, Path)
    ]
    return digest("\n".join(names).encode() + b"".join(e.poses.tobytes() for e in episodes))


def _episode(key: str, frames: list[ImageLike], poses: np.ndarray) -> Episode:
    seen = poses[:CONTEXT]
    ahead = poses[CONTEXT - 1 :]
    return Episode(key, frames[:CONTEXT], actions_between(seen), frames[-1], ahead)


def latent_cost(
    model: LatentUM, episode: Episode, paths: Sequence[Sequence[Action]], sampling: Sampling
) -> Float[np.ndarray, "N"]:
    """Mean squared distance, over visual tokens and dimensions, of up_proj(z_q) of each path's last
    imagined frame to that of the goal; nothing is drawn."""
    codes, _ = rollout(model, *_rows(episode, paths), sampling=sampling)
    goal = latent_features(model, model.encode([episode.goal])[1])
    return np.mean((latent_features(model, codes[:, -1]) - goal) ** 2, axis=(1, 2))


def pixel_cost(
    model: LatentUM,
    episode: Episode,
    paths: Sequence[Sequence[Action]],
    sampling: Sampling,
    *,
    decode: Decode,
    distance: Distance,
) -> Float[np.ndarray, "N"]:
    """`distance` of each path's last frame, as decoded in the published recurrence, to the goal."""
    _, pictures = rollout(model, *_rows(episode, paths), decode, sampling=sampling)
    return distance(pictures[:, -1], _picture(episode.goal, pictures.shape[2]))


def evaluate(
    model: LatentUM,
    episodes: Sequence[Episode],
    run: Run,
    settings: CEM,
    seed: int,
    cost: Callable[..., np.ndarray] = latent_cost,
    sampling: Sampling = SAMPLED,
) -> dict[str, Any]:
    """Plans every episode that the run has not finished; its results.

    Beside what is planned there are two paths that look at nothing: straight ahead, at the mean
    pace of the first distribution, and one drawn from it. For each, over episodes, mean and half
    the 95% interval of ATE, RPE (meters, not aligned), of the distance to where the goal was seen
    from (meters), and of the angle to how it was seen (degrees); "nearer" is the share of episodes
    in which the planned end is nearer than the other's, "nearer_by" how much (meters).
    """
    for number, episode in enumerate(tqdm(episodes, desc="plans", unit="episode")):
        if episode.key in run.done:
            continue
        rng = np.random.default_rng((seed, number))
        planned = search(functools.partial(cost, model, episode, sampling=sampling), settings, rng)
        mean, std = np.asarray(settings.mean), np.asarray(settings.std)
        drawn = path_of(
            (mean + std * rng.standard_normal(3)).tolist(), settings.steps, settings.path
        )
        straight = (Action(settings.mean[0], 0.0, 0.0),) * settings.steps
        ways = {"planned": planned.actions, "straight": straight, "random": drawn}
        scores = {way: score(episode, actions) for way, actions in ways.items()}
        run.add([_kept(episode, planned, scores)])
    return results_of(list(run.done.values()))


def score(episode: Episode, actions: Sequence[Action]) -> dict[str, float]:
    """How far a path is from the way that was gone: `METRICS`."""
    poses = [Pose(*episode.poses[0])]
    for action in actions:
        poses.append(compose(poses[-1], action))
    gone, true = np.asarray(poses), episode.poses
    turned = np.degrees(gone[-1, 2] - true[-1, 2])
    return {
        "ate": ate(true, gone),
        "rpe": rpe(true, gone)[0],
        "position": float(np.linalg.norm(gone[-1, :2] - true[-1, :2])),
        "yaw": float(abs((turned + 180) % 360 - 180)),
    }


def results_of(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over episodes, and how often the planned end is the nearer one."""
    found: dict[str, Any] = {"episodes": len(items)}
    for way in WAYS:
        values = {name: np.array([item[way][name] for item in items]) for name in METRICS}
        found[way] = {name: interval(x) for name, x in values.items()}
    end = {way: np.array([item[way]["position"] for item in items]) for way in WAYS}
    found["nearer"] = {way: float(np.mean(end["planned"] < end[way])) for way in WAYS[1:]}
    found["nearer_by"] = {way: interval(end[way] - end["planned"]) for way in WAYS[1:]}
    return found


def table(results: dict[str, Any]) -> str:
    """A row a way, as Markdown, and what was broken."""
    head = (
        "",
        "ATE (m)",
        "RPE (m)",
        "end from goal (m)",
        "angle to goal (degrees)",
        "planned nearer",
    )
    rows = []
    for way in WAYS:
        cells = [f"{results[way][n]['mean']:.3f} ± {results[way][n]['ci95']:.3f}" for n in METRICS]
        near = ""
        if way in results["nearer"]:
            by = results["nearer_by"][way]
            near = f"{results['nearer'][way]:.0%}, by {by['mean']:.3f} ± {by['ci95']:.3f} m"
        rows.append((way, *cells, near))
    told = markdown(head, rows)
    if unreadable := results.get("unreadable"):
        where, reason = next(iter(unreadable.items()))
        told += f"\n{len(unreadable)} trajectories are broken; the first, {where}: {reason}\n"
    return told


def _picture(image: ImageLike, side: int) -> np.ndarray:
    """As large as what is decoded: uint8 [1 P P 3]."""
    loaded = load_image(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(loaded)[None]


def _rows(
    episode: Episode, paths: Sequence[Sequence[Action]]
) -> tuple[list[list[ImageLike]], list[list[Action]]]:
    return [episode.frames] * len(paths), [[*episode.actions, *path] for path in paths]


def _kept(episode: Episode, planned: Planned, scores: dict[str, Any]) -> dict[str, Any]:
    actions = [dataclasses.astuple(action) for action in planned.actions]
    return {"key": episode.key, "actions": actions, "costs": list(planned.costs), **scores}
