"""What a run starts with: the parameters, the stage over them, its batches, and how it is kept."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from latentum_jax.config import AlignerConfig, ChatConfig, DecoderConfig, LatentUMConfig
from latentum_jax.convert.decoder import read_decoder
from latentum_jax.convert.published import open_model
from latentum_jax.data.faults import Faults
from latentum_jax.data.frozenlake import stream as frozenlake
from latentum_jax.data.navigation import stream as navigation
from latentum_jax.decoder.folder import DecoderFolder, decoder_axes, write_decoder_folder
from latentum_jax.decoder.pixel_decoder import PixelDecoder, init_decoder_params
from latentum_jax.files import whole
from latentum_jax.latentumm.aligner import Aligner, init_aligner_params
from latentum_jax.latentumm.folder import (
    AlignerFolder,
    aligner_axes,
    read_aligner_folder,
    write_aligner_folder,
)
from latentum_jax.models.folder import ModelFolder, model_axes, write_folder
from latentum_jax.models.latentum import LatentUM, Params, init_params
from latentum_jax.models.layers import Remat
from latentum_jax.models.stored import Lazy, write_safetensors
from latentum_jax.sharding import Axes
from latentum_jax.tokenizer import SpecialIds, Tokenizer
from latentum_jax.train.data import (
    Feed,
    Here,
    every_row,
    open_embeddings,
    open_feed,
    open_pictures,
)
from latentum_jax.train.lora import factor_axes, targets_of, with_lora
from latentum_jax.train.stages import ALIGNER_STAGES, DECODER_STAGES, STAGES
from latentum_jax.train.stages.decoder import latent_moments
from latentum_jax.train.stages.stage import Stage

BESIDE = "beside_model.safetensors"  # what a stage trained that is not the model's
CALIBRATION_BATCHES = 16
SEEING = ("vision", "quantizer")  # parts of a model that make z_q of a picture
TRAINED = {"frozenlake": frozenlake.train_tokenizer, "navigation": navigation.train_tokenizer}
KNOWN = (*STAGES, *DECODER_STAGES, *ALIGNER_STAGES)
Own = tuple[Stage, Stage, Mapping[str, Axes], Mapping[str, int]]  # the same of a `Start`


@dataclasses.dataclass(frozen=True)
class Start:
    """A run before its first step.

    params: nested dict of arrays, there or `Lazy`. plain: the stage, computing nothing again in its
    backward pass. axes: their logical axes by path. heads: counts
    that the mesh has to divide. feed: its batches, from the first. write: puts trained parameters
    into a folder, with what the stage's `extra` holds at the end.
    """

    params: Params
    stage: Stage
    plain: Stage
    axes: Mapping[str, Axes]
    heads: Mapping[str, int]
    feed: Feed
    write: Callable[[Path, Params, Mapping[str, Any]], None]


def start_of(config: ConfigDict, faults: Faults, here: Here = every_row) -> Start:
    """What a config's stage begins with; the feed gives the rows of a batch that are wanted `here`.

    Raises ValueError for a config that is wrong.
    """
    check_computing(config)
    if config.stage in STAGES:
        return _model_start(config, faults, here)
    if config.stage in DECODER_STAGES:
        return _decoder_start(config, faults, here)
    if config.stage in ALIGNER_STAGES:
        return _aligner_start(config, faults, here)
    raise ValueError(f"stage is {config.stage!r}, expected one of {KNOWN}")


def check_computing(config: ConfigDict) -> None:
    """ValueError where a config says not how a stage is computed."""
    _known("dtype", config.dtype, ("float32", "bfloat16"))
    _known("remat", config.remat, get_args(Remat))


def _known(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{key} is {value!r}, expected one of {tuple(known)}")


def _model_start(config: ConfigDict, faults: Faults, here: Here) -> Start:
    folder = starting_model(config)
    own = model_stage(config, folder.config, folder.tokenizer.ids)
    feed = open_feed(config, folder.config, folder.chat, folder.tokenizer, faults, here)
    return Start(folder.params, *own, feed, model_writer(folder, own[0]))


def model_writer(
    folder: ModelFolder, stage: Stage
) -> Callable[[Path, Params, Mapping[str, Any]], None]:
    """`Start.write` of a stage of the model in this folder."""

    def write(path: Path, params: Params, extra: Mapping[str, Any]) -> None:
        usage, finished = extra.get("usage", folder.usage), stage.finish(params)
        write_beside_model(path.with_name(BESIDE), params, finished, stage.trainable)
        write_folder(path, dataclasses.replace(folder, params=finished, usage=usage))

    return write


def model_stage(config: ConfigDict, model: LatentUMConfig, ids: SpecialIds) -> Own:
    """What a stage of the model is, and what a mesh has to know of its parameters."""
    dtype = jnp.dtype(config.dtype)
    stage, plain = (
        STAGES[config.stage](LatentUM(model, dtype, remat), config, ids)
        for remat in (config.remat, "none")
    )
    return with_factors(config, stage, plain, model_axes(model), head_counts(model))


def write_beside_model(path: Path, params: Params, finished: Params, trainable: str) -> None:
    """What a stage trained and `Stage.finish` takes out of the model, by parameter path."""
    kept = flatten_dict(finished, sep="/")
    flat = flatten_dict(params, sep="/").items()
    added = {name: x for name, x in flat if name not in kept and re.search(trainable, name)}
    if added:
        with whole(path) as unfinished:
            write_safetensors(unfinished, {name: Lazy.of(x) for name, x in added.items()})


def decoder_stage(config: ConfigDict, decoder: DecoderConfig, model: LatentUMConfig) -> Own:
    """The same of a decoder's, whose parameters are {"decoder", "latentum"}."""
    dtype = jnp.dtype(config.dtype)
    stage, plain = (
        DECODER_STAGES[config.stage](
            PixelDecoder(decoder, dtype, remat), LatentUM(model, dtype, remat), config
        )
        for remat in (config.remat, "none")
    )
    axes = {f"decoder/{path}": own for path, own in decoder_axes(decoder).items()}
    axes |= {f"latentum/{path}": own for path, own in model_axes(model).items()}
    heads = {"decoder.mmdit.num_heads": decoder.mmdit.num_heads}
    return with_factors(config, stage, plain, axes, heads)


def with_factors(
    config: ConfigDict, stage: Stage, plain: Stage, axes: Mapping[str, Axes], heads: dict[str, int]
) -> Own:
    """What a stage is with the low-rank factors that `config.lora` asks for, if it does."""
    if not config.lora.rank:
        return stage, plain, axes, heads
    targets = targets_of(stage, axes, config.lora.targets)
    how = {"rank": config.lora.rank, "alpha": config.lora.alpha, "seed": config.seed}
    stage, plain = (with_lora(one, targets, **how) for one in (stage, plain))
    return stage, plain, {**axes, **factor_axes(axes, targets)}, heads


def starting_model(config: ConfigDict) -> ModelFolder:
    """The model that a stage starts from: a folder, or nothing but a seed.

    Raises ValueError where the folder's model is of other sizes than the config's. `mbaq` makes
    the quantizer, and may ask for another than the folder's.
    """
    model = LatentUMConfig.from_dict(config.model.to_dict())
    if config.init_from:
        folder = open_model(config.init_from, model)
        odd = differing(folder.config, model)
        if config.stage == "mbaq" and all(key.startswith("quantizer.") for key in odd):
            return requantized(folder, model, config.seed)
        _refuse("model", odd, config.init_from)
        return folder
    if config.tokenizer in TRAINED:
        tokenizer = TRAINED[config.tokenizer](model.language.vocab_size)
    else:
        tokenizer = Tokenizer.from_folder(config.tokenizer)
    if len(tokenizer) > model.language.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {model.language.vocab_size}"
        )
    params = init_params(model, jax.random.key(config.seed))
    return ModelFolder(model, ChatConfig(**config.chat.to_dict()), params, tokenizer)


def head_counts(config: LatentUMConfig) -> dict[str, int]:
    """Attention heads of every tower by their config key."""
    return {
        "vision.num_heads": config.vision.num_heads,
        "language.num_heads": config.language.num_heads,
        "language.num_kv_heads": config.language.num_kv_heads,
        "head.num_heads": config.head.num_heads,
    }


def requantized(folder: ModelFolder, model: LatentUMConfig, seed: int) -> ModelFolder:
    """The folder's model with the quantizer of `model`: what its codes shape starts anew."""
    if folder.config == model:
        return folder
    kept, fresh = (
        flatten_dict(p, sep="/") for p in (folder.params, init_params(model, jax.random.key(seed)))
    )
    fits = {name: x for name, x in kept.items() if name in fresh and x.shape == fresh[name].shape}
    params = unflatten_dict({**jax.tree.map(np.asarray, fresh), **fits}, sep="/")
    return dataclasses.replace(folder, config=model, params=params)


def _decoder_start(config: ConfigDict, faults: Faults, here: Here) -> Start:
    """Parameters are {"decoder", "latentum"}: of the second what makes z_q, if anything does."""
    decoder = starting_decoder(config)
    model = LatentUMConfig.from_dict(config.model.to_dict())
    params: dict[str, Any] = {"decoder": decoder.params, "latentum": {}}
    if config.stage != "vae":
        seen = _latentum(config, model)
        params["latentum"] = {part: seen[part] for part in SEEING}
    own = decoder_stage(config, decoder.config, model)
    feed = open_pictures(config, model.vision, decoder.config, faults, here)

    def write(path: Path, params: Params, extra: Mapping[str, Any]) -> None:
        made, trained = decoder.config, own[0].finish(params)["decoder"]
        if config.stage == "vae":
            again = open_pictures(config, model.vision, decoder.config, faults)
            made = calibrated(made, trained, again)
            again.close()
        write_decoder_folder(path, DecoderFolder(made, trained), dtype="float32")

    return Start(params, *own, feed, write)


def starting_decoder(config: ConfigDict) -> DecoderFolder:
    """The decoder that a stage starts from: a folder, SD3.5, or nothing but a seed.

    Raises ValueError where the folder's decoder is of other sizes than the config's. The scale and
    shift of latents are the folder's: they belong to its VAE.
    """
    asked = DecoderConfig.from_dict(config.decoder.to_dict())
    if not config.init_from:
        return DecoderFolder(asked, init_decoder_params(asked, jax.random.key(config.seed)))
    folder = read_decoder(
        config.init_from,
        context_dim=asked.mmdit.context_dim,
        references=asked.mmdit.references,
        image_size=asked.image_size,
        seed=config.seed,
    )
    odd = differing(folder.config, asked)
    for own in ("vae.scale", "vae.shift"):
        odd.pop(own, None)
    _refuse("decoder", odd, config.init_from)
    return folder


def _latentum(config: ConfigDict, model: LatentUMConfig) -> Params:
    if not config.latentum:
        raise ValueError("latentum is empty, expected the folder of the model whose z_q is drawn")
    folder = open_model(config.latentum, model)
    _refuse("model", differing(folder.config, model), config.latentum)
    width = config.decoder.mmdit.context_dim
    if width != model.quantizer.embedding_dim:
        raise ValueError(
            f"decoder.mmdit.context_dim is {width}, "
            f"z_q of {config.latentum} has width {model.quantizer.embedding_dim}"
        )
    return folder.params


def calibrated(config: DecoderConfig, params: Params, feed: Feed) -> DecoderConfig:
    """The config with the scale and shift that give the VAE's latents mean 0 and variance 1."""
    params = jax.tree.map(np.asarray, params)  # of what was merged, some are still to be read
    moments = jax.jit(lambda pixels: latent_moments(PixelDecoder(config), params, pixels))
    found = [moments(jnp.asarray(next(feed)["pixels"])) for _ in range(CALIBRATION_BATCHES)]
    mean, square = (float(x) for x in np.mean(found, axis=0))
    vae = dataclasses.replace(config.vae, shift=mean, scale=float((square - mean**2) ** -0.5))
    return dataclasses.replace(config, vae=vae)


def _aligner_start(config: ConfigDict, faults: Faults, here: Here) -> Start:
    """Parameters are the aligner's."""
    aligner = starting_aligner(config)
    own = aligner_stage(config, aligner.config)
    feed = open_embeddings(config, aligner.config, faults, here)

    def write(path: Path, params: Params, extra: Mapping[str, Any]) -> None:
        write_aligner_folder(path, AlignerFolder(aligner.config, own[0].finish(params)))

    return Start(aligner.params, *own, feed, write)


def aligner_stage(config: ConfigDict, aligner: AlignerConfig) -> Own:
    """What a stage of the aligner's is, and what a mesh has to know of its parameters."""
    stage = ALIGNER_STAGES[config.stage](Aligner(aligner, jnp.dtype(config.dtype)), config)
    heads = {"aligner.num_heads": aligner.num_heads}
    return with_factors(config, stage, stage, aligner_axes(aligner), heads)


def starting_aligner(config: ConfigDict) -> AlignerFolder:
    """The aligner that a stage starts from: a folder, or nothing but a seed.

    Raises ValueError where the folder's aligner is of other sizes than the config's.
    """
    asked = AlignerConfig.from_dict(config.aligner.to_dict())
    if not config.init_from:
        return AlignerFolder(asked, init_aligner_params(asked, jax.random.key(config.seed)))
    folder = read_aligner_folder(config.init_from)
    _refuse("aligner", differing(folder.config, asked), config.init_from)
    return folder


def differing(given: Any, asked: Any) -> dict[str, tuple[Any, Any]]:
    """Keys of two configs whose values differ, with both."""
    a, b = (flatten_dict(c.to_dict(), sep=".") for c in (given, asked))
    return {key: (a[key], b[key]) for key in b if a[key] != b[key]}


def _refuse(section: str, odd: Mapping[str, tuple[Any, Any]], source: str) -> None:
    for key, (given, asked) in odd.items():
        raise ValueError(f"{section}.{key} is {given} in {source}, {asked} in the config")
