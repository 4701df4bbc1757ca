"""The one sharding table: how parameters, batches and activations lie on a mesh of devices.

A mesh has four axes. Rows of a batch are split over `data` and `fsdp`; what is as wide as the model
(`embed`) is split over `fsdp`, so that each device holds a share of all weights and fetches a layer
when it needs it; heads, feed-forward widths and words over `tensor`; tokens over `sequence`. Where
q, k and v are one product (`qkv`), heads lie apart in its width and `tensor` does not split it; nor
the `channels` of convolutions, few as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "sequence")
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "data": ("data",),
    "length": ("sequence",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}
Axes = Sequence[str | None]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices; of the sizes one may be -1, for all that the others leave.

    Raises ValueError where sizes and devices do not match.
    """
    devices = jax.devices() if devices is None else devices
    given = {axis: sizes.get(axis, 1) for axis in AXES}
    said = " x ".join(f"{axis} {size}" for axis, size in given.items())
    if set(sizes) - set(AXES) or list(given.values()).count(-1) > 1:
        raise ValueError(f"the mesh is {dict(sizes)}, expected sizes of {AXES}, one of them -1")
    if any(size < 1 and size != -1 for size in given.values()):
        raise ValueError(f"a mesh of {said}: expected sizes from 1, or -1 for what is left")
    known = int(np.prod([size for size in given.values() if size > 0]))
    shape = tuple(len(devices) // known if size == -1 else size for size in given.values())
    if int(np.prod(shape)) != len(devices):
        raise ValueError(f"a mesh of {said} does not divide {len(devices)} devices")
    # A TPU pod's torus of 4 x 4 x 4 holds 8 x 8 devices only where an axis of it may be shared.
    laid = create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(laid, AXES, axis_types=(AxisType.Auto,) * 4)


def divide(mesh: Any, axis: str, sizes: Mapping[str, int]) -> None:
    """ValueError, naming the size, where a mesh does not divide those of a logical axis."""
    names = RULES[axis]
    parts = int(np.prod([mesh.shape[name] for name in names]))
    for name, size in sizes.items():
        if size % parts:
            raise ValueError(
                f"{name} is {size}, a mesh with {' x '.join(names)} {parts} needs "
                f"a multiple of {parts}"
            )


def spec(axes: Axes, shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """Of an array with these logical axes; one that the mesh does not divide is not split."""

    def place(axis: str | None, size: int) -> tuple[str, ...] | None:
        names = tuple(n for n in RULES.get(axis or "", ()) if n in mesh.shape)
        parts = int(np.prod([mesh.shape[n] for n in names]))
        return names if parts > 1 and size % parts == 0 else None

    return PartitionSpec(*(place(axis, size) for axis, size in zip(axes, shape, strict=True)))


def param_sharding(mesh: Mesh, axes: Axes, shape: Sequence[int]) -> NamedSharding:
    """Of a parameter. Vectors (of each layer) are on every device: they are small and many."""
    vector = len([axis for axis in axes if axis != "layers"]) < 2
    return NamedSharding(mesh, PartitionSpec() if vector else spec(axes, shape, mesh))


def tree_shardings(mesh: Mesh, axes: Mapping[str, Axes], tree: Any) -> Any:
    """Of arrays in dicts by parameter path, however deep; all else is on every device."""

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        name = getattr(path[-1], "key", None) if path else None
        if name in axes and len(axes[name]) == len(x.shape):
            return param_sharding(mesh, axes[name], x.shape)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def rows_here(mesh: Mesh, rows: int) -> slice:
    """The rows of a batch that this process's devices hold."""
    held = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows) for index in held]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of everything in a batch: by rows."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch on the devices, of which every process has the rows that `rows_here` says."""
    where = batch_sharding(mesh)
    put = jax.make_array_from_process_local_data
    return {name: put(where, x) for name, x in batch.items()}


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows [*b D] of a table [V D]. Devices that share its width pick for one another's rows of the
    batch, each its part of the width, and then exchange: the table is nowhere whole."""
    rest = (None,) * (ids.ndim - 1)
    made = jnp.take(table, constrain(ids, "data", *rest), axis=0)
    return constrain(constrain(made, "data", *rest, "embed"), "batch", *rest, None)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Says how an activation lies on the mesh that is set (`jax.set_mesh`), if one is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size < 2:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))
