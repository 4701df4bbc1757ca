"""Devices that programs are compiled for without having them, and what they can do."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache.compilation_cache import reset_cache

# What XLA wants to know of a GPU; compute capability, clocks and sizes are NVIDIA's figures.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
TWO_AXES = {
    1: "2x2",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
THREE_AXES = {1: "2x2x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A device: how jax names it, its memory in bytes, bytes it reads of that a second and bf16
    operations it does, by the figures of NVIDIA and Google Cloud; how so many are described."""

    kind: str
    memory: int
    bandwidth: float
    flops: float
    describe: Callable[[int], Mapping[str, Any]]


def _gpus(count: int) -> Mapping[str, Any]:
    """In machines of eight."""
    hosts, own = max(1, count // 8), min(count, 8)
    return {"platform": "cuda", "target_config": H100, "topology": f"1x{hosts}x{own}"}


def _tpus(name: str, shapes: Mapping[int, str]) -> Callable[[int], Mapping[str, Any]]:
    def describe(count: int) -> Mapping[str, Any]:
        if count not in shapes:
            raise ValueError(f"{count} chips of {name}, expected one of {tuple(shapes)}")
        return {"platform": "tpu", "topology_name": f"{name}:{shapes[count]}"}

    return describe


TARGETS = {
    "h100": Target("H100", 84929347584, 3.35e12, 989e12, _gpus),
    "v5e": Target("TPU v5 lite", 16 * 2**30, 0.82e12, 197e12, _tpus("v5e", TWO_AXES)),
    "v5p": Target("TPU v5", 95 * 2**30, 2.77e12, 459e12, _tpus("v5p", THREE_AXES)),
    "v6e": Target("TPU v6 lite", 32 * 2**30, 1.64e12, 918e12, _tpus("v6e", TWO_AXES)),
}


def describe(target: str, count: int = 1) -> Sequence[Any]:
    """So many devices of a target, to compile for.

    Raises ValueError for an unknown target, or where its compiler is not installed.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}, expected one of {tuple(TARGETS)}")
    # libtpu asks the cloud's metadata server otherwise, and lets one process at a time have it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    description = TARGETS[target].describe(count)
    try:
        return topologies.get_topology_desc(**description).devices[:count]
    except Exception as error:  # whatever the plugin raises
        raise ValueError(
            f"cannot compile for {target}: {str(error).splitlines()[0]} "
            "(pip install 'latentum_jax[aot]' brings the compilers)"
        ) from error


def compile_afresh(lowered: jax.stages.Lowered, target: str) -> jax.stages.Compiled:
    """Compiles what was lowered for a target's devices; what is on disk cannot be read for these.

    Where XLA finds no tiles for one of Triton's products, having no GPU to try them on, all of them
    are given to cuBLAS.
    """
    kept = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # or jax would not notice
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if TARGETS[target].describe is not _gpus or "tile sizes" not in str(error):
                raise
            return lowered.compile({"xla_gpu_enable_triton_gemm": False})
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        reset_cache()


def peak_flops(device: jax.Device) -> float | None:
    """bf16 operations a second of a device that is here; None where that is not known."""
    exact = [t for t in TARGETS.values() if t.kind == device.device_kind]
    known = exact or [t for t in TARGETS.values() if t.kind in device.device_kind]
    return known[0].flops if known else None
