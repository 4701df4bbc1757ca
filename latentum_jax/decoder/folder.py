"""A pixel decoder on disk, our layout: config.json and the parameters by path, as a model's are."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from latentum_jax.config import DecoderConfig
from latentum_jax.decoder.pixel_decoder import PixelDecoder, probe
from latentum_jax.files import whole_folder, write_json
from latentum_jax.models.folder import (
    Storage,
    known_shapes,
    open_params,
    read_config,
    write_params,
)
from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import axes_by_path

FORMAT = "latentum_jax-decoder-1"


@dataclasses.dataclass(frozen=True)
class DecoderFolder:
    """What a folder holds; `params` are {"mmdit", "vae"}, each nested arrays or `Lazy` ones."""

    config: DecoderConfig
    params: Params


def write_decoder_folder(
    path: str | Path,
    decoder: DecoderFolder,
    *,
    dtype: str | None,
    storage: Storage = "safetensors",
) -> None:
    """Writes a decoder with its weights as `write_params` does; replaces an old one."""
    with whole_folder(path) as folder:
        write_params(folder, decoder.params, dtype, storage)
        write_json(folder / "config.json", {"format": FORMAT, "decoder": decoder.config.to_dict()})


def read_decoder_folder(path: str | Path) -> DecoderFolder:
    """Reads a decoder, its parameters as fp32.

    Raises ValueError, one sentence, where the folder is not one of this library or is broken.
    """
    decoder = open_decoder_folder(path)
    params = jax.tree.map(lambda x: np.asarray(x[...], np.float32), decoder.params)
    return DecoderFolder(decoder.config, params)


def open_decoder_folder(path: str | Path) -> DecoderFolder:
    """The same with its parameters still to be read, in the dtypes of the file."""
    path = Path(path)
    values = read_config(path)
    try:
        if values.get("format") != FORMAT:
            raise ValueError(f"format is {values.get('format')!r}, expected {FORMAT!r}")
        config = DecoderConfig.from_dict(values["decoder"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'config.json'} is not a pixel decoder of this library: {error}"
        ) from error
    flat = open_params(path, expected_shapes(config))
    return DecoderFolder(config, unflatten_dict(flat, sep="/"))


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    return known_shapes(config, PixelDecoder(config).init, *probe(config))


def decoder_axes(config: DecoderConfig) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of every parameter by path, see `sharding`."""
    return axes_by_path(PixelDecoder(config).init, *probe(config))
