"""The sharding table: what lies where, and what a mesh has to divide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from latentum_jax.models.folder import expected_shapes, model_axes
from latentum_jax.sharding import AXES, constrain, divide, look_up, make_mesh, rows_here, spec
from tests.small import SMALL

MESH = AbstractMesh((2, 4, 2, 1), AXES, axis_types=(AxisType.Auto,) * 4)


@pytest.mark.parametrize(
    ("axes", "shape", "lies"),
    [
        (("layers", "embed", "mlp"), (3, 32, 64), (None, ("fsdp",), ("tensor",))),
        (("vocab", "embed"), (301, 32), (None, ("fsdp",))),  # 301 words are not divided
        (("batch", "length", None), (16, 9, 7), (("data", "fsdp"), None, None)),
        (("embed", "qkv"), (32, 96), (("fsdp",), None)),
    ],
)
def test_a_spec_follows_the_table(axes, shape, lies):
    """Breaks if an array is split that cannot be, or along another axis."""
    assert spec(axes, shape, MESH) == PartitionSpec(*lies)


def test_every_parameter_says_its_axes():
    """Breaks if a parameter without names would lie whole on every device of a pod."""
    axes, shapes = model_axes(SMALL), expected_shapes(SMALL)
    assert axes.keys() == shapes.keys()
    unnamed = [name for name, own in axes.items() if len(own) != len(shapes[name])]
    assert not unnamed
    split = [name for name, own in axes.items() if {"embed", "mlp", "heads"} & set(own)]
    assert len(split) > 0.8 * len(axes)


def test_meshes():
    """Breaks if devices are left out, or asked for that are not there, without a word."""
    one = jax.devices()[:1]
    assert dict(make_mesh({"data": -1}, one).shape) == dict.fromkeys(AXES, 1)
    for sizes, said in (
        ({"fsdp": 2}, "data 1 x fsdp 2 x tensor 1 x sequence 1 does not divide 1 devices"),
        ({"data": -1, "fsdp": -1}, "one of them -1"),
        ({"rows": 2}, "expected sizes of"),
        ({"data": 0}, "expected sizes from 1"),
    ):
        with pytest.raises(ValueError, match=said):
            make_mesh(sizes, one)
    with pytest.raises(ValueError, match="rows is 12, a mesh with data x fsdp 8 needs a multiple"):
        divide(MESH, "batch", {"others": 16, "rows": 12})


def test_without_a_mesh_nothing_changes():
    """Breaks if inference on one device is told of axes that it has not."""
    x = jnp.arange(6.0).reshape(2, 3)
    assert constrain(x, "batch", None) is x
    ids = jnp.array([[1, 0]])
    np.testing.assert_array_equal(look_up(x, ids), x[ids])
    assert rows_here(make_mesh({}, jax.devices()[:1]), 5) == slice(0, 5)
