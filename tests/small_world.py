"""A world model, and its decoder of four reference frames, of the sizes of `tests.small`."""

import dataclasses
import functools

import jax

from latentum_jax.config import ChatConfig, DecoderConfig
from latentum_jax.data.navigation.stream import train_tokenizer
from latentum_jax.decoder.folder import DecoderFolder
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.models.folder import ModelFolder
from tests.small import DECODER, SMALL, random_params

WORDS = 512  # of the tokenizer


@functools.cache
def small_world() -> ModelFolder:
    """The model, with random parameters and a tokenizer that knows the prompt."""
    language = dataclasses.replace(SMALL.language, vocab_size=WORDS, max_positions=1024)
    config = dataclasses.replace(SMALL, language=language)
    chat = ChatConfig(system="")
    return ModelFolder(config, chat, random_params(config), train_tokenizer(WORDS))


@functools.cache
def small_drawer() -> DecoderFolder:
    """What draws its frames."""
    mmdit = dataclasses.replace(DECODER.mmdit, references=4)
    decoder: DecoderConfig = dataclasses.replace(DECODER, mmdit=mmdit)
    return DecoderFolder(decoder, init_decoder_params(decoder, jax.random.key(0)))
