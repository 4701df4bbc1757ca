"""World-model samples in the published message format: frames and actions, then the next frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from latentum_jax.data.messages import Entry, Sample, conversation, image, text
from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.words import Action, prompt

CONTEXT = 4  # frames that a published world model knows


def world_sample(
    frames: Sequence[Any] | np.ndarray, poses: Float[np.ndarray, "F 3"], name: str
) -> Sample:
    """A sample of F frames, or what they are drawn from, and their poses: the last one is to come.

    The actions are those between the poses, one for each frame but the last.
    """
    user = asked(frames[:-1], actions_between(poses))
    return conversation(name, user, [image(frames[-1])])


def asked(frames: Sequence[Any] | np.ndarray, actions: Sequence[Action | str]) -> list[Entry]:
    """The question of `words.prompt` with frames in the places of its `<image>`."""
    first, *texts = prompt(actions).split("<image>")
    entries = [text(first)]
    for frame, words in zip(frames, texts, strict=True):
        entries += [image(frame), text(words)]
    return entries
