"""The weights of LPIPS: torchvision's AlexNet and the lpips package's of its channels."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from latentum_jax.convert.table import Layout, Row, Table
from latentum_jax.convert.weights import open_file
from latentum_jax.eval.lpips import CONVOLUTIONS, expected_shapes
from latentum_jax.models.latentum import Params

KERNEL = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW, HWIO
CHANNELS = Layout(lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])
PLACES = (0, 3, 6, 8, 10)  # of the convolutions among AlexNet's features
IGNORED = {
    r"classifier\..*": "names what is seen",
    r"(lins\.|scaling_layer\.|lin\d+\.model\.0).*": "said twice, or constants of the code",
}


def table() -> Table:
    """The rows of both."""
    rows = []
    for i, place in enumerate(PLACES[: len(CONVOLUTIONS)]):
        rows += [
            Row(f"features.{place}.weight", f"conv{i}/kernel", KERNEL),
            Row(f"features.{place}.bias", f"conv{i}/bias"),
            Row(f"lin{i}.model.1.weight", f"weight{i}", CHANNELS),
        ]
    return Table("LPIPS", rows, IGNORED)


def read_lpips(alexnet: str | Path, channels: str | Path, *, allow_pickle: bool = False) -> Params:
    """The parameters of `lpips` from two files, .safetensors or, on request, torch's own.

    alexnet: torchvision's state dict. channels: the lpips package's (alex.pth, its version 0.1).

    Raises ValueError, one sentence, where a weight is missing or of another shape.
    """
    files = (Path(alexnet), Path(channels))
    state = {k: v for f in files for k, v in open_file(f, allow_pickle=allow_pickle).items()}
    flat = table().import_flat(state, expected_shapes())
    params = {path: jnp.asarray(np.asarray(x, np.float32)) for path, x in flat.items()}
    return unflatten_dict(params, sep="/")
