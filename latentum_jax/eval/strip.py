"""A walk that the world model imagines, beside the true one: a strip of pictures for people."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.data.navigation.words import Action
from latentum_jax.eval.recon import held_out_walks
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import rollout

STEPS, DECODE_STEPS = 8, 8


@dataclasses.dataclass(frozen=True)
class Strip:
    """The last frame seen, the actions taken then, and what came: true, and as imagined."""

    seen: UInt8[np.ndarray, "P P 3"]
    actions: tuple[Action, ...]
    true: UInt8[np.ndarray, "W P P 3"]
    imagined: UInt8[np.ndarray, "W P P 3"]


def imagine_walk(model: LatentUM, decoder: PixelDecoder, seed: int, steps: int = STEPS) -> Strip:
    """A held-out walk rolled out in latent space alone; then drawn, for whoever looks on."""
    ((frames, poses),) = held_out_walks(1, seed, steps)
    actions, seen = actions_between(poses), list(frames[:CONTEXT])
    codes, _ = rollout(model, [seen], [actions], sampling=GREEDY)
    references = seen[: decoder.config.mmdit.references]
    z_q = model.z_q(codes[0])
    drawn = decoder.decode(z_q, references=references, steps=DECODE_STEPS, seeds=range(steps))
    return Strip(frames[CONTEXT - 1], tuple(actions[CONTEXT - 1 :]), frames[CONTEXT:], drawn)
