"""Several processes that train as one: how they find each other, and what they agree on."""

import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AUTO = "auto"


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of a run; does nothing without a `coordinator`.

    HOST:PORT is where process 0 listens, of so many `processes`, of which this is the `process`-th.
    "auto" reads all of it from Slurm, Open MPI, a TPU pod or GKE, as jax does.

    Raises ValueError where these do not go together or the others are not found.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise ValueError("--processes and --process need --coordinator HOST:PORT")
        return
    given: dict[str, Any] = {}
    if coordinator != AUTO:
        given = _numbered(coordinator, processes, process)
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Of a program that was kept on disk gloo's messages do not always fit those of the other
        # process: a step of `pixel_decoder` fails mostly with it and never without (jax 0.10.2).
        jax.config.update("jax_enable_compilation_cache", False)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--coordinator {coordinator}: cannot join the run ({reason})") from error


def _numbered(coordinator: str, processes: int | None, process: int | None) -> dict[str, Any]:
    if not re.fullmatch(r"[^:\s]+:\d{1,5}", coordinator):
        raise ValueError(f"--coordinator is {coordinator!r}, expected HOST:PORT or {AUTO}")
    if processes is None or process is None:
        raise ValueError(f"--coordinator {coordinator} needs --processes and --process")
    if not 0 <= process < processes:
        raise ValueError(f"--process is {process}, expected one of 0 to {processes - 1}")
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
    }


def is_first() -> bool:
    """Whether this is the process that writes what all have in common."""
    return jax.process_index() == 0


def on_host(tree: Any) -> Any:
    """Arrays of a mesh as numpy arrays, whole on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)


def joined(state: dict[str, Any]) -> dict[str, Any]:
    """A data iterator's state, of whose lists every process knows the entries of its own rows."""
    if jax.process_count() == 1:
        return state
    every = lambda x: multihost_utils.process_allgather(np.asarray(x)).max(0).tolist()  # noqa: E731
    return {name: every(x) if isinstance(x, list) else x for name, x in state.items()}


def wait_for_all(name: str) -> None:
    """Until every process has come to this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Agreement:
    """The largest of the processes' numbers, found on the devices behind the steps under way."""

    def __init__(self, mesh: jax.sharding.Mesh):
        spec = jax.sharding.PartitionSpec(mesh.axis_names)
        self.where = jax.sharding.NamedSharding(mesh, spec)
        self.largest = jax.jit(lambda x: x.max(), out_shardings=jax.NamedSharding(mesh, jax.P()))

    def ask(self, number: int) -> jax.Array:
        """Not waited for: to be read when it is needed."""
        count = self.where.mesh.size
        own = lambda index: np.full(len(range(count)[index[0]]), number, np.int32)  # noqa: E731
        return self.largest(jax.make_array_from_callback((count,), self.where, own))
