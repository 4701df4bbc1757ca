"""A trained aligner on disk: config.json and the parameters by path, as a model's are."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from latentum_jax.config import AlignerConfig
from latentum_jax.files import whole_folder, write_json
from latentum_jax.latentumm.aligner import Aligner, probe
from latentum_jax.models.folder import known_shapes, open_params, read_config, write_params
from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import axes_by_path

FORMAT = "latentum_jax-aligner-1"


@dataclasses.dataclass(frozen=True)
class AlignerFolder:
    """What a folder holds; `params` nested fp32 arrays."""

    config: AlignerConfig
    params: Params


def write_aligner_folder(path: str | Path, aligner: AlignerFolder) -> None:
    """Writes an aligner in fp32; replaces an old one."""
    with whole_folder(path) as folder:
        write_params(folder, aligner.params, "float32")
        write_json(folder / "config.json", {"format": FORMAT, "aligner": aligner.config.to_dict()})


def read_aligner_folder(path: str | Path) -> AlignerFolder:
    """Reads an aligner.

    Raises ValueError, one sentence, where the folder is not one of this library or is broken.
    """
    path = Path(path)
    values = read_config(path)
    try:
        if values.get("format") != FORMAT:
            raise ValueError(f"format is {values.get('format')!r}, expected {FORMAT!r}")
        config = AlignerConfig.from_dict(values["aligner"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'config.json'} is not an aligner of this library: {error}"
        ) from error
    flat = open_params(path, expected_shapes(config))
    params = jax.tree.map(lambda x: np.asarray(x[...], np.float32), flat)
    return AlignerFolder(config, unflatten_dict(params, sep="/"))


def expected_shapes(config: AlignerConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    return known_shapes(config, Aligner(config).init, *probe(config))


def aligner_axes(config: AlignerConfig) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of every parameter by path, see `sharding`."""
    return axes_by_path(Aligner(config).init, *probe(config))
