"""Does a world model of the small world imagine the right place? Its own reading of its frames.

    python launch/read_rollouts.py CHECKPOINT --walks 15

Held-out walks are rolled out in latents, greedily; of every imagined frame the understanding branch
is asked where it was seen from. Beside it the same of the true frames' codes, which is as well as
it reads, and of the last frame seen, which is what a model that imagines nothing would show.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.questions import POSE, parse_pose
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.eval.recon import held_out_walks
from latentum_jax.eval.runs import markdown
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import rollout

ANSWER = 16  # tokens


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--walks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = LatentUM.from_pretrained(args.checkpoint)
    walks = list(held_out_walks(args.walks, args.seed, args.steps))
    frames = [list(seen[:CONTEXT]) for seen, _ in walks]
    actions = [actions_between(poses) for _, poses in walks]
    imagined, _ = rollout(model, frames, actions, sampling=GREEDY)
    true = np.stack([model.encode(list(seen[CONTEXT - 1 :]))[1] for seen, _ in walks])
    poses = np.stack([poses[CONTEXT:] for _, poses in walks])
    rows = []
    for step in range(args.steps):
        shown = {"imagined": imagined[:, step], "true": true[:, step + 1], "last": true[:, 0]}
        told = [
            apart(model.describe(x, POSE, max_new_tokens=ANSWER), poses[:, step])
            for x in shown.values()
        ]
        rows.append((str(step + 1), *told))
    head = ("step", "imagined: m, degrees", "true frame", "last frame seen")
    print(markdown(head, rows), end="")
    return 0


def apart(told: Sequence[str], poses: np.ndarray) -> str:
    """Mean and median distance, mean angle, of what is told from poses [B 3]; how many cannot be
    read."""
    found = [(parse_pose(text), pose) for text, pose in zip(told, poses, strict=True)]
    read = [(said, pose) for said, pose in found if said is not None]
    if not read:
        return "none can be read"
    said, true = (np.asarray(x, float) for x in zip(*read, strict=True))
    far = np.linalg.norm(said[:, :2] / 10 - true[:, :2], axis=1)
    turned = np.abs((said[:, 2] - np.degrees(true[:, 2]) + 180) % 360 - 180)
    unread = f", {len(found) - len(read)} unread" if len(read) < len(found) else ""
    return f"{far.mean():.2f} ({np.median(far):.2f}), {turned.mean():.0f}{unread}"


if __name__ == "__main__":
    sys.exit(main())
