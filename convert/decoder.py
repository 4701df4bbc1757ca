"""Published decoder folders: MMDiT beside its config, the VAE in the SD3.5 folder it names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentum_jax.config import DecoderConfig
from latentum_jax.convert import mmdit, vae
from latentum_jax.convert.weights import Weights
from latentum_jax.decoder import mmdit as our_mmdit
from latentum_jax.decoder import vae as our_vae
from latentum_jax.models.folder import read_config
from latentum_jax.models.latentum import Params

VAE_FILE = "diffusion_pytorch_model"


def read_published_decoder(
    folder: str | Path, sd3_5: str | Path | None = None
) -> tuple[DecoderConfig, Params]:
    """Config and parameters {"mmdit", "vae"} of a published decoder, in the dtypes of its files.

    Args:
      folder: config.json and model.safetensors of the decoder.
      sd3_5: the SD3.5 folder with vae/ in it; without, the one that the config names, taken from
        the decoder's folder.

    Raises:
      ValueError: one sentence, where a file is missing or damaged, or config and weights
        contradict each other.
    """
    folder = Path(folder)
    values = read_config(folder)
    weights = Weights(folder)
    try:
        config = mmdit.config_of(weights.shapes)
        image_size = _check(values, config.context_dim, config.references)
        params = mmdit.table(config).import_params(weights, our_mmdit.expected_shapes(config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    vae_folder = (folder / str(values["sd3_5_path"]) if sd3_5 is None else Path(sd3_5)) / "vae"
    if not vae_folder.is_dir():
        raise ValueError(f"there is no {vae_folder}: the folder of SD3.5 is needed for its VAE")
    vae_weights = Weights(vae_folder, VAE_FILE)
    try:
        vae_config = vae.config_from_published(read_config(vae_folder))
        vae_params = vae.table(vae_config).import_params(
            vae_weights, our_vae.expected_shapes(vae_config)
        )
    except ValueError as error:
        raise ValueError(f"{vae_folder}: {error}") from error
    return DecoderConfig(config, vae_config, image_size), {"mmdit": params, "vae": vae_params}


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
