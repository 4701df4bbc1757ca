"""Writes random walks through rooms as RECON is kept: a folder of frames and poses each.

    python launch/navigation_recon.py DIR --trajectories 1000 --frames 60
    python launch/navigation_recon.py DIR --trajectories 50 --split test --seed 1

Trajectory i follows from the seed, the split and i alone.
"""

import argparse
from pathlib import Path

import numpy as np

from latentum_jax.data.navigation.recon import FRAMES, write_trajectory
from latentum_jax.data.navigation.walks import walk
from latentum_jax.data.navigation.world import SIDE, draw_all, random_room


def main() -> None:
    """Writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trajectories", type=int, default=100)
    parser.add_argument("--frames", type=int, default=60, help="of a trajectory, four a second")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of a frame")
    parser.add_argument("--suffix", choices=FRAMES, default=".jpg")
    args = parser.parse_args()
    for number in range(args.trajectories):
        rng = np.random.default_rng((args.seed, number, args.split == "test"))
        room = random_room(rng, args.split)
        poses = walk(rng, room, args.frames - 1)
        pictures = draw_all(room, poses, args.side)
        name = f"{args.split}-{args.seed}-{number:06d}"
        write_trajectory(args.folder / name, pictures, poses, suffix=args.suffix)


if __name__ == "__main__":
    main()
