"""Small layers that every tower shares: dense maps with logical axes, norms, rotary embeddings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct, traverse_util
from jaxtyping import Array, Float, Int

from latentum_jax.kernels.dispatch import kernels_are_on

Dtype = Any
MANY = 128  # rows from which a product has no use for a `Turned` kernel
LONG = 1024  # inputs from which a `Turned` kernel for a CPU is in two parts
EIGHT_BITS = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}
LORA_A, LORA_B = "lora_a", "lora_b"  # beside a kernel whose correction is trained
fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Rounded(struct.PyTreeNode):
    """A kernel in 8 bits: `values` [out, in] x `scale`, which is one fp32 number an output.

    Decoding is bound by the bytes of weights that it reads; activations stay as they are. With an
    output's values side by side a GPU reads them at 1.6 TB/s where it makes 1.2 of [in, out]
    (2560 x 10240 int8, 2 rows of bf16, H100).
    """

    values: jax.Array
    scale: jax.Array

    @classmethod
    def of(cls, kernel: jax.Array, kind: str) -> "Rounded":
        """The nearest to a kernel [in, out] in "int8", or in "fp8" (e4m3), each output scaled to
        the full range."""
        if kind not in EIGHT_BITS:
            raise ValueError(f"weights are {kind!r}, expected one of {sorted(EIGHT_BITS)}")
        dtype, top = EIGHT_BITS[kind]
        kernel = kernel.astype(jnp.float32)
        scale = jnp.maximum(jnp.max(jnp.abs(kernel), axis=0), 1e-30) / top
        values = (kernel / scale).T
        return cls((jnp.round(values) if kind == "int8" else values).astype(dtype), scale)

    def dot(self, x: jax.Array) -> jax.Array:
        """x times the kernel, summed in fp32."""
        values = self.values.astype(x.dtype)
        made = jnp.einsum("...i,oi->...o", x, values, preferred_element_type=jnp.float32)
        return (made * self.scale).astype(x.dtype)


class Turned(struct.PyTreeNode):
    """A kernel held as `parts` [out, in] of its outputs, as programs for a CPU and a TPU want it.

    For a TPU XLA lays many kernels [in, out] anew before it decodes: 1.3 GB of a full-size model's.
    For a CPU, with `few`, it is how few rows are multiplied best: XLA's library for products there
    copies the right operand into an order of its own each time. x [few in] kernel would have it
    copy the kernel, kernel^T x^T copies the rows of x. Of 8 rows and kernels of 4 MB that is 75 to
    100 GFLOP/s instead of 35 to 45 on two AVX2 cores. Of `MANY` the copy of the kernel is the
    smaller one: from 512 on 135 to 160 instead of 78 to 109.

    Of `LONG` inputs a CPU has two parts, multiplied side by side: with two rows [512, 2048] is read
    at 14.6 instead of 11.9 GB/s by two cores; kernels of fewer inputs are read as fast whole.
    """

    parts: tuple[jax.Array, ...]
    few: bool = struct.field(pytree_node=False)

    @classmethod
    def of(cls, kernel: jax.Array, platform: str) -> "Turned":
        """Of a kernel [in, out], for programs on "cpu" or "tpu"."""
        if platform != "cpu":
            return cls((kernel.T,), few=False)
        turned = np.asarray(kernel).T  # not by jax, to which each size would be a program
        parts = np.array_split(turned, 2 if turned.shape[1] >= LONG else 1)
        return cls(tuple(jnp.asarray(np.ascontiguousarray(part)) for part in parts), few=True)

    @property
    def kernel(self) -> np.ndarray:
        """The kernel [in, out], not copied where it is in one part."""
        parts = [np.asarray(part) for part in self.parts]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).T

    def dot(self, x: jax.Array) -> jax.Array:
        """x times the kernel."""
        return jnp.concatenate([self._dot(part.astype(x.dtype), x) for part in self.parts], axis=-1)

    def _dot(self, values: jax.Array, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        if not self.few or len(rows) >= MANY:
            return jnp.einsum("...i,oi->...o", x, values)
        made = jnp.dot(values, rows.T)
        # Without this XLA folds the transposition into the product, and turns that back.
        return jax.lax.optimization_barrier(made).T.reshape(*x.shape[:-1], -1)


def weight(
    module: nn.Module, name: str, init: Any, axes: Sequence[str], shape: Sequence[int]
) -> Any:
    """A module's parameter with logical axis names, made by `init` where none is given.

    Flax would trace `init` for the shape of one that is: a third of the time of tracing a model.
    """
    given = module.variables.get("params", {}).get(name)
    if given is not None and not isinstance(given, nn.meta.AxisMetadata):
        return given
    return module.param(name, nn.with_logical_partitioning(init, tuple(axes)), tuple(shape))


def corrected(module: nn.Module, y: jax.Array, x: jax.Array) -> jax.Array:
    """y + (x A) B where factors lie beside a module's kernel (`train.lora`), else y.

    Kernels may be stacked [layers in out]: x has such an axis then, or is the same for all.
    """
    given = module.variables.get("params", {})
    if LORA_A not in given:
        return y
    a, b = (given[name].astype(y.dtype) for name in (LORA_A, LORA_B))
    return y + jnp.matmul(jnp.matmul(x, a), b)


class Dense(nn.Module):
    """x kernel + bias, where the kernel given may be a `Rounded` or a `Turned` one."""

    features: int
    axes: tuple[str, str]
    use_bias: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... O"]:
        x = x.astype(self.dtype)
        kernel = weight(self, "kernel", fan_in, self.axes, (x.shape[-1], self.features))
        if isinstance(kernel, Rounded | Turned):
            y = kernel.dot(x)
        else:
            y = jnp.dot(x, kernel.astype(self.dtype))
        y = corrected(self, y, x)
        if not self.use_bias:
            return y
        bias = weight(self, "bias", nn.initializers.zeros, self.axes[1:], (self.features,))
        return y + bias.astype(self.dtype)


def dense(
    features: int, axes: tuple[str, str], *, bias: bool, dtype: Dtype, name: str | None = None
) -> Dense:
    """A linear map whose kernel [in, out] carries logical axis names for the sharding table."""
    return Dense(features, axes, bias, dtype, name=name)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in fp32, returned in `dtype`."""

    eps: float
    dtype: Dtype = jnp.float32
    axis_name: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = weight(self, "scale", nn.initializers.ones, (self.axis_name,), x.shape[-1:])
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (x * scale).astype(self.dtype)


def layer_norm(eps: float, dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm in fp32 with scale and bias over the embed axis."""
    return nn.LayerNorm(
        epsilon=eps,
        dtype=dtype,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
        name=name,
    )


Remat = Literal["none", "layers", "products"]


def stacked(
    layer: Callable[..., nn.Module],
    length: int,
    in_axes: Any = nn.broadcast,
    remat: Remat = "none",
) -> Any:
    """`length` layers of one kind as one module, which scans over their weights [length, ...].

    What the backward pass needs of a layer is kept, or with `remat` computed again from its input:
    all of it ("layers"), or all but the products with weights ("products").
    """
    if remat != "none":
        keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        policy = keep if remat == "products" else None
        layer = nn.remat(layer, prevent_cse=False, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def through_layers(
    owner: nn.Module, layer: nn.Module, x: Any, at: Any, caches: Sequence[Any] | None
) -> tuple[Any, tuple[Any, ...] | None]:
    """Takes x through `owner.layers`, which are `stacked`, each of them like `layer`.

    With a cache a layer the layers follow one another: a scan would copy each layer's weights and
    cache out of the stack before it reads them, three times the traffic of decoding a token at a
    time. The weights may then be a tuple, one tree a layer (see `unstack_layers`), and should be.
    """
    weights = owner.variables.get("params", {}).get("layers")
    one_by_one = isinstance(weights, tuple)
    if caches is None and not one_by_one:
        return owner.layers(x, at)[0], None
    count = len(weights) if one_by_one else len(caches)
    new = []
    for i in range(count):
        own = weights[i] if one_by_one else jax.tree.map(lambda w, i=i: w[i], weights)
        cache = None if caches is None else caches[i]
        x, cache = _through(layer, kernels_are_on(), own, x, at, cache)
        new.append(cache)
    return x, None if caches is None else tuple(new)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _through(
    layer: nn.Module, kernels: bool, own: Any, x: Any, at: Any, cache: Any
) -> tuple[Any, Any]:
    """One layer, traced once for all that are alike: a third of what it takes to trace a program.

    `kernels` tells traces with kernels from those without.
    """
    return layer.apply({"params": own}, x, at, cache)


def shapes_by_path(init: Callable[..., Any], *args: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that a module's `init(key, *args)` makes, without making any."""
    made = jax.eval_shape(init, jax.random.key(0), *args)
    flat = traverse_util.flatten_dict(nn.meta.unbox(made["params"]), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def axes_by_path(init: Callable[..., Any], *args: Any) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of the same (see `sharding`); of those that name none, none is split."""
    made = jax.eval_shape(init, jax.random.key(0), *args)["params"]
    flat = traverse_util.flatten_dict(nn.get_partition_spec(made), sep="/")
    return {path: tuple(axes) for path, axes in flat.items()}


def exact_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x Phi(x)."""
    return nn.gelu(x, approximate=False)


class MLP(nn.Module):
    """Linear, activation, Linear: the ViT's, mlp1's, the quantizer's and the head's block."""

    hidden: int
    features: int
    dtype: Dtype = jnp.float32
    out_axis: str = "embed"
    activation: Callable[[jax.Array], jax.Array] = exact_gelu

    def setup(self) -> None:
        self.fc1 = dense(self.hidden, ("embed", "mlp"), bias=True, dtype=self.dtype)
        self.fc2 = dense(self.features, ("mlp", self.out_axis), bias=True, dtype=self.dtype)

    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... O"]:
        return self.fc2(self.activation(self.fc1(x)))


class SwiGLU(nn.Module):
    """Qwen3's feed-forward: down(silu(gate x) * up x)."""

    hidden: int
    features: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.gate_proj = dense(self.hidden, ("embed", "mlp"), bias=False, dtype=self.dtype)
        self.up_proj = dense(self.hidden, ("embed", "mlp"), bias=False, dtype=self.dtype)
        self.down_proj = dense(self.features, ("mlp", "embed"), bias=False, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary_angles(
    position: Int[Array, "*b T"], head_dim: int, theta: float
) -> tuple[Float[Array, "*b T 1 half"], Float[Array, "*b T 1 half"]]:
    """cos and sin of position x theta^(-2i/H), in fp32, with an axis left for the heads."""
    inv_freq = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = position[..., None, None].astype(jnp.float32) * inv_freq
    return jnp.cos(angle), jnp.sin(angle)


def rotate_half(x: Float[Array, "*b T N H"], cos: Array, sin: Array) -> Float[Array, "*b T N H"]:
    """Rotary embedding pairing dimension i with i + H/2 (Qwen3)."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def rotate_pairs(x: Float[Array, "*b T N H"], cos: Array, sin: Array) -> Float[Array, "*b T N H"]:
    """Rotary embedding pairing dimension 2i with 2i + 1 (the vision head)."""
    a, b = x.astype(jnp.float32)[..., 0::2], x.astype(jnp.float32)[..., 1::2]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
