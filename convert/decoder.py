"""Pixel decoders to ours and back: published folders, and SD3.5-medium as the start of training.

A published folder has MMDiT beside its config; the VAE is in the SD3.5 folder that this names.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from latentum_jax.config import DecoderConfig, MMDiTConfig, VAEConfig
from latentum_jax.convert import mmdit, vae
from latentum_jax.convert.weights import open_file, open_weights, shapes_of, write_weights
from latentum_jax.decoder import mmdit as our_mmdit
from latentum_jax.decoder import vae as our_vae
from latentum_jax.decoder.folder import DecoderFolder, open_decoder_folder
from latentum_jax.files import whole_folder, write_json
from latentum_jax.models.folder import in_dtype, read_config
from latentum_jax.models.layers import fan_in
from latentum_jax.models.stored import Lazy

DIFFUSERS = "diffusion_pytorch_model"
SD3_5 = "sd3_5"  # folder of the VAE and the schedule in what we write
SCHEDULE = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}

# SD3.5 in one file: where its parts lie, and which have no place here.
MMDIT, VAE = "model.diffusion_model.", "first_stage_model."
IGNORED = {
    "text_encoders.": "the decoder reads z_q, not text",
    "conditioner.": "the decoder reads z_q, not text",
}

Flat = dict[str, Lazy]


def open_decoder(
    folder: str | Path, sd3_5: str | Path | None = None, *, allow_pickle: bool = False
) -> DecoderFolder:
    """A decoder folder, ours or a published one, its parameters still to be read.

    Raises ValueError, one sentence, where it is neither or broken.
    """
    if "format" in read_config(folder):  # one of ours, whether or not of a decoder
        return open_decoder_folder(folder)
    return open_published_decoder(folder, sd3_5, allow_pickle=allow_pickle)


def read_decoder(
    path: str | Path, *, context_dim: int, references: int, image_size: int, seed: int
) -> DecoderFolder:
    """A decoder to train on, in fp32: a decoder's folder, or SD3.5 as `open_sd3_5` opens it.

    Where one without reference frames is given and `references` are asked for, its patch embedding
    gets channels of zeros for them.

    Raises ValueError, one sentence, where it is none of them or broken.
    """
    path = Path(path)
    if not (path / "config.json").is_file() and (path.is_file() or (path / "transformer").is_dir()):
        opened = open_sd3_5(
            path,
            context_dim=context_dim,
            references=references,
            image_size=image_size,
            seed=seed,
        )
    else:
        opened = open_decoder(path)
    config = opened.config
    params = jax.tree.map(lambda x: np.asarray(x[...], np.float32), opened.params)
    if references and not config.mmdit.references:
        embedder = params["mmdit"]["x_embedder"]
        embedder["kernel"] = our_mmdit.with_references(embedder["kernel"], config.mmdit, references)
        grown = dataclasses.replace(config.mmdit, references=references)
        config = dataclasses.replace(config, mmdit=grown)
    return DecoderFolder(config, params)


def open_published_decoder(
    folder: str | Path, sd3_5: str | Path | None = None, *, allow_pickle: bool = False
) -> DecoderFolder:
    """A published decoder, its parameters still to be read, in the dtypes of its files.

    Args:
      folder: config.json and model.safetensors of the decoder.
      sd3_5: the SD3.5 folder with vae/ in it; without, the one that the config names, taken from
        the decoder's folder.
      allow_pickle: see `open_weights`.

    Raises:
      ValueError: one sentence, where a file is missing or damaged, or config and weights
        contradict each other.
    """
    folder = Path(folder)
    values = read_config(folder)
    weights = open_weights(folder, allow_pickle=allow_pickle)
    try:
        config = mmdit.config_of(shapes_of(weights))
        image_size = _check(values, config.context_dim, config.references)
        flat = mmdit.table(config).open(weights, our_mmdit.expected_shapes(config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    vae_config, vae_flat = _open_vae(folder / str(values["sd3_5_path"]) if sd3_5 is None else sd3_5)
    return _decoder(DecoderConfig(config, vae_config, image_size), flat, vae_flat)


def write_published_decoder(
    path: str | Path, decoder: DecoderFolder, *, dtype: str | None = None
) -> None:
    """Writes the published layout, weights in `dtype` or as they are; replaces an old folder.

    VAE and schedule lie in `sd3_5/` inside, as diffusers reads them, and the config names that.

    Raises ValueError where the decoder has what no published one has.
    """
    c = decoder.config
    if c.mmdit.token_patches is not None or c.mmdit.pooled_size is None:
        raise ValueError(
            "this decoder has what no published one has: "
            f"token_patches {c.mmdit.token_patches}, pooled_size {c.mmdit.pooled_size}"
        )
    flat = {part: in_dtype(decoder.params[part], dtype) for part in ("mmdit", "vae")}
    config = {
        "sd3_5_path": SD3_5,
        "context_dim": c.mmdit.context_dim,
        "load_pretrained": False,
        "image_size": c.image_size,
        "ref_mode": "concat" if c.mmdit.references else "none",
        "num_ref_frames": c.mmdit.references,
        "legacy_checkpoint_path": None,
    }
    with whole_folder(path) as folder:
        write_json(folder / "config.json", config)
        write_json(folder / SD3_5 / "scheduler/scheduler_config.json", SCHEDULE)
        write_json(folder / SD3_5 / "vae/config.json", vae.published_config(c.vae))
        vae_tensors = vae.table(c.vae).publish(flat["vae"])
        write_weights(folder / SD3_5 / "vae", vae_tensors, DIFFUSERS)
        write_weights(folder, mmdit.table(c.mmdit).publish(flat["mmdit"]))


def open_sd3_5(
    path: str | Path,
    *,
    context_dim: int = 256,
    references: int = 0,
    image_size: int = 448,
    seed: int = 0,
    allow_pickle: bool = False,
) -> DecoderFolder:
    """SD3.5-medium as a decoder to be trained, its parameters still to be read.

    What reads the context is fresh: it was of text, 4096 wide. The patch embedding takes no notice
    yet of reference frames: their channels begin at zero.

    Args:
      path: the single file, or diffusers' folder with transformer/ and vae/.
      context_dim: width of z_q.
      references: reference frames that the decoder takes.
      image_size: pixels that it will be trained at.
      seed: of the context embedder.
      allow_pickle: see `open_weights`.

    Raises:
      ValueError: one sentence, where a file is missing or damaged, or is not SD3.5.
    """
    path = Path(path)
    opened = _open_folder if path.is_dir() else _open_file
    config, flat, vae_config, vae_flat = opened(path, allow_pickle)
    started = dataclasses.replace(config, context_dim=context_dim, references=references)
    flat = flat | _fresh_context(started, seed)
    kernel = our_mmdit.with_references(flat["x_embedder/kernel"][...], config, references)
    flat["x_embedder/kernel"] = Lazy.of(kernel)
    return _decoder(DecoderConfig(started, vae_config, image_size), flat, vae_flat)


def _open_folder(path: Path, allow_pickle: bool) -> tuple[MMDiTConfig, Flat, VAEConfig, Flat]:
    transformer = path / "transformer"
    weights = open_weights(transformer, DIFFUSERS, allow_pickle=allow_pickle)
    try:
        config = mmdit.config_from_diffusers(read_config(transformer))
        flat = mmdit.diffusers_table(config).open(weights, our_mmdit.expected_shapes(config))
    except ValueError as error:
        raise ValueError(f"{transformer}: {error}") from error
    return config, flat, *_open_vae(path)


def _open_file(path: Path, allow_pickle: bool) -> tuple[MMDiTConfig, Flat, VAEConfig, Flat]:
    parts: dict[str, Flat] = {MMDIT: {}, VAE: {}}
    for key, value in open_file(path, allow_pickle=allow_pickle).items():
        prefix = next((prefix for prefix in (*parts, *IGNORED) if key.startswith(prefix)), None)
        if prefix is None:
            raise ValueError(f"{path} has {key}, which is no weight of SD3.5")
        if prefix in parts:
            parts[prefix][key.removeprefix(prefix)] = value
    try:
        config = mmdit.config_of(shapes_of(parts[MMDIT]))
        flat = mmdit.table(config).open(parts[MMDIT], our_mmdit.expected_shapes(config))
        vae_config = vae.config_from_ldm(shapes_of(parts[VAE]))
        vae_table = vae.ldm_table(vae_config)
        vae_flat = vae_table.open(parts[VAE], our_vae.expected_shapes(vae_config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config, flat, vae_config, vae_flat


def _open_vae(sd3_5: str | Path) -> tuple[VAEConfig, Flat]:
    folder = Path(sd3_5) / "vae"
    if not folder.is_dir():
        raise ValueError(f"there is no {folder}: the folder of SD3.5 is needed for its VAE")
    weights = open_weights(folder, DIFFUSERS)
    try:
        config = vae.config_from_published(read_config(folder))
        return config, vae.table(config).open(weights, our_vae.expected_shapes(config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _decoder(config: DecoderConfig, mmdit_flat: Flat, vae_flat: Flat) -> DecoderFolder:
    parts = {"mmdit": mmdit_flat, "vae": vae_flat}
    return DecoderFolder(config, {p: unflatten_dict(flat, sep="/") for p, flat in parts.items()})


def _fresh_context(config: MMDiTConfig, seed: int) -> Flat:
    shape = (config.context_dim, config.hidden_size)
    kernel = fan_in(jax.random.key(seed), shape)
    made = {"kernel": np.asarray(kernel), "bias": np.zeros(config.hidden_size, np.float32)}
    return {f"context_embedder/{name}": Lazy.of(value) for name, value in made.items()}


def _check(values: Mapping[str, Any], context_dim: int, references: int) -> int:
    """What config.json says of the weights is so; returns the image size."""
    for name in ("sd3_5_path", "context_dim", "image_size", "ref_mode", "num_ref_frames"):
        if name not in values:
            raise ValueError(f"config.json lacks {name!r}, as every decoder's has it")
    frames = values["num_ref_frames"] if values["ref_mode"] == "concat" else 0
    for name, got, expected in (
        ("ref_mode", values["ref_mode"], "concat" if references else "none"),
        ("num_ref_frames", frames, references),
        ("context_dim", values["context_dim"], context_dim),
    ):
        if got != expected:
            raise ValueError(f"config.json: {name} is {got!r}, the weights have {expected!r}")
    return int(values["image_size"])
