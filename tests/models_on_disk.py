"""The very small model with random parameters as a folder that `from_pretrained` reads."""

import dataclasses
import functools
from pathlib import Path

from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.samples import COARSE_PROMPT, SHORT_PROMPT
from latentum_jax.models.folder import ModelFolder, write_folder
from tests.small import SMALL, make_small

CONTEXT = 512  # positions, few enough to be exceeded


@functools.cache
def random_model() -> ModelFolder:
    """Made once a process."""
    language = dataclasses.replace(SMALL.language, max_positions=CONTEXT)
    config = dataclasses.replace(SMALL, language=language)
    chat = ChatConfig(system="", fine_prompt=SHORT_PROMPT, coarse_prompt=COARSE_PROMPT)
    small = make_small()
    return ModelFolder(config, chat, small.params, small.tokenizer)


def write_random_model(path: Path) -> Path:
    """Writes the folder and returns its path."""
    write_folder(path, random_model())
    return path
