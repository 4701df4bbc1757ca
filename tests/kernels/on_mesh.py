"""`python -m tests.kernels.on_mesh`: how far flash attention and its gradients on meshes of eight
devices are from those of one, as JSON. A process of its own, for it needs eight devices."""

import json
import os

os.environ["NPROC"] = "32"  # as in tests/train/on_meshes.py
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from latentum_jax.kernels.flash import flash_attention  # noqa: E402
from latentum_jax.kernels.placement import Placement  # noqa: E402
from latentum_jax.sharding import make_mesh  # noqa: E402

B, N, K, T, H = 4, 4, 2, 256, 64
MESHES = (
    {"data": 2, "tensor": 2, "sequence": 2},
    {"fsdp": 4, "tensor": 2},
    {"data": 2, "sequence": 4},
    {"tensor": 8},  # divides the heads of neither
)


def apart(x, y):
    """The greatest difference, as a share of the greatest number."""
    return float(np.abs(x - y).max() / np.abs(y).max())


def main():
    shapes = [(B, N, T, H), (B, K, T, H), (B, K, T, H), (B, N, T, H)]
    rng = np.random.default_rng(0)
    *qkv, do = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    at = Placement.causal(jnp.broadcast_to(jnp.arange(T), (B, T)))
    loss = lambda q, k, v: jnp.sum(flash_attention(q / 8, k, v, at, at) * do)  # noqa: E731
    made = lambda: jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*qkv))  # noqa: E731
    one, far = made(), []
    for sizes in MESHES:
        with jax.set_mesh(make_mesh(sizes)):
            far += [apart(x, y) for x, y in zip(made(), one, strict=True)]
    print(json.dumps(far))


if __name__ == "__main__":
    main()
