"""Latent images on disk: an .npz with `codes` int32 [B L C] and the `prompts` they came from."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentum_jax.config import LatentUMConfig
from latentum_jax.files import whole

ZIP = b"PK"  # which an .npz begins with


def write_codes(path: str | Path, codes: np.ndarray, prompts: Sequence[str]) -> None:
    """Writes latent images, one a prompt; the file appears whole or not at all."""
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, codes=codes, prompts=np.array(prompts))


def read_codes(path: str | Path, config: LatentUMConfig) -> tuple[np.ndarray, list[str]]:
    """The codes and the prompts of a file. Raises ValueError where it does not fit the model."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of codes {path}")
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP)) != ZIP:
                raise ValueError("not an .npz archive")
        with np.load(path) as arrays:
            codes, prompts = arrays["codes"], arrays["prompts"].tolist()
    except (ValueError, KeyError, IndexError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no file of codes: {error}") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    shape = (config.vision.num_tokens, config.quantizer.num_codebooks)
    size = config.quantizer.codebook_size
    if codes.dtype.kind not in "iu" or codes.ndim != 3 or codes.shape[1:] != shape:
        raise ValueError(
            f"{path} holds {codes.dtype} {list(codes.shape)}, "
            f"this model's latent images are integers [images, {shape[0]}, {shape[1]}]"
        )
    if len(codes) == 0 or len(codes) != len(prompts):
        raise ValueError(f"{path} holds {len(codes)} latent images and {len(prompts)} prompts")
    if codes.min() < 0 or codes.max() >= size:
        raise ValueError(f"{path} holds codes outside 0 to {size - 1}, those of this model")
    return codes.astype(np.int32), prompts
