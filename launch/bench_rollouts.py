"""How long the world model takes to imagine: in latents alone, and through pixels as published.

    python launch/bench_rollouts.py --steps 16 --candidates 64

Weights are random, of the sizes of nav-tiny and its decoder: seconds do not depend on what is
learnt. All candidates begin with the same four frames. "latent" is one program for all steps of all
candidates. "pixels" decodes every frame, in 25 Euler steps, and sees it again: all candidates at
once, which the published code does not do, or with --alone one after another, which it does.
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.config import ChatConfig
from latentum_jax.configs.nav_tiny import nav_model
from latentum_jax.configs.nav_tiny_decoder import nav_decoder
from latentum_jax.data.navigation.stream import train_tokenizer
from latentum_jax.data.navigation.words import Action
from latentum_jax.decoder.folder import expected_shapes as decoder_shapes
from latentum_jax.eval.bench import random_params
from latentum_jax.eval.recon import held_out
from latentum_jax.models.folder import ModelFolder, expected_shapes
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import rollout


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--decode-steps", type=int, default=25)
    parser.add_argument("--alone", type=int, default=0, help="candidates to take one by one")
    args = parser.parse_args()

    config, decoder = nav_model(), nav_decoder()
    params = random_params(expected_shapes(config), jnp.float32)
    model = LatentUM(ModelFolder(config, ChatConfig(system=""), params, train_tokenizer(512)))
    drawer = PixelDecoder(decoder, random_params(decoder_shapes(decoder), jnp.float32))
    decode = functools.partial(drawer.decode, steps=args.decode_steps)
    (episode,) = held_out(1, seed=0, steps=1)
    rng = np.random.default_rng(0)

    def seconds(rows: int, through: object) -> float:
        """Of a second run: the first compiles. One step more or less is the same program."""
        taken = []
        for steps in (args.steps if through is None else 1, args.steps):
            drawn = rng.normal(0, 0.1, (rows, steps, 3)).tolist()
            actions = [[*episode.actions, *(Action(*a) for a in row)] for row in drawn]
            began = time.perf_counter()
            rollout(model, [episode.frames] * rows, actions, through)
            taken.append(time.perf_counter() - began)
        return taken[-1]

    latent = seconds(args.candidates, None)
    print(f"{args.candidates} candidates x {args.steps} steps, {jax.devices()[0].device_kind}")
    print(f"latent, one program: {latent:.1f} s", flush=True)
    together = seconds(args.candidates, decode)
    print(f"through pixels, together: {together:.1f} s, {together / latent:.1f} times", flush=True)
    if args.alone:
        each = sum(seconds(1, decode) for _ in range(args.alone)) / args.alone
        alone = each * args.candidates
        print(f"through pixels, one after another: {alone:.1f} s, {alone / latent:.1f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
