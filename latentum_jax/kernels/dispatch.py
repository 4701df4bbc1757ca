"""Which programs use a kernel, and how one body becomes a kernel for a GPU and for a TPU."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

SWITCH = "LATENTUM_KERNELS"
VMEM = 96 * 2**20  # bytes of a TPU core's fast memory that a kernel may have, of 128 MB


@dataclasses.dataclass(frozen=True)
class Target:
    """What a kernel is made for: "gpu", "tpu", or "interpret", which runs it anywhere, slowly."""

    kind: str

    @property
    def sublanes(self) -> int:
        """Rows that a matrix product wants at least: Triton's are of 16, a TPU's tiles of 8."""
        return 8 if self.kind == "tpu" else 16

    def call(
        self,
        body: Callable[..., None],
        *,
        grid: tuple[int, ...],
        numbers: Sequence[jax.Array],
        in_specs: Sequence[pl.BlockSpec],
        out_specs: Sequence[pl.BlockSpec],
        out_shape: Sequence[jax.ShapeDtypeStruct],
        name: str,
        ahead: int = 2,
    ) -> Callable[..., Any]:
        """`body(*number_refs, *in_refs, *out_refs)` over a grid.

        `numbers` are flat int32 arrays that steer a kernel. On a TPU they lie in scalar memory, and
        index maps are given them behind the places of the grid. `ahead` is how many rounds of a
        loop a GPU keeps the blocks of in its shared memory.
        """
        if self.kind == "tpu":
            made = pl.pallas_call(
                body,
                grid_spec=pltpu.PrefetchScalarGridSpec(
                    num_scalar_prefetch=len(numbers),
                    grid=grid,
                    in_specs=in_specs,
                    out_specs=out_specs,
                ),
                out_shape=out_shape,
                name=name,
                compiler_params=pltpu.CompilerParams(vmem_limit_bytes=VMEM),
            )
        else:
            whole = [pl.BlockSpec(x.shape, lambda *at, n=x.ndim: (0,) * n) for x in numbers]
            gpu = plgpu.CompilerParams(num_warps=4, num_stages=ahead)
            made = pl.pallas_call(
                body,
                grid=grid,
                in_specs=[*whole, *in_specs],
                out_specs=out_specs,
                out_shape=out_shape,
                name=name,
                interpret=self.kind == "interpret",
                compiler_params=None if self.kind == "interpret" else gpu,
            )
        return lambda *given: made(*numbers, *given)

    def load(self, ref: Any, inside: jax.Array) -> jax.Array:
        """A block of which only what is `inside` exists; zeros elsewhere."""
        if self.kind == "gpu":
            return plgpu.load(ref, mask=inside, other=0)
        return jnp.where(inside, ref[...], 0)


def whole(made: Any) -> Any:
    """Of parts that need nothing of one another."""
    return made


@dataclasses.dataclass(frozen=True)
class Split:
    """How a kernel's arguments and results lie on a mesh (partition specs), and what makes a
    device's part of the results whole."""

    given: Any
    made: Any
    joined: Callable[[Any], Any] = whole


GPU, TPU, INTERPRET = Target("gpu"), Target("tpu"), Target("interpret")


def product(a: jax.Array, b: jax.Array, *, turned: bool = False) -> jax.Array:
    """a b in fp32, or a b^T: of 16-bit numbers as they are, whatever `default_matmul_precision`
    says, for a TPU's compiler knows no other product of them."""
    dims = (((1,), (1 if turned else 0,)), ((), ()))
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def kernels_are_on() -> bool:
    """Whether programs traced now may use kernels: LATENTUM_KERNELS=off leaves them out."""
    return os.environ.get(SWITCH) != "off"


def dispatch(
    kernel: Callable[..., Any],
    twin: Callable[..., Any],
    *args: Any,
    fits: bool,
    tpu: bool = True,
    split: Split | None = None,
) -> Any:
    """`kernel(target, *args)` in programs for a GPU or TPU where the sizes fit it, else
    `twin(*args)`.

    It is decided when a program is lowered, by the device that it is for. With `tpu` false a TPU is
    left to the twin. Over a mesh of several devices (`jax.set_mesh`) each runs the kernel on its
    part, as `split` says; without that, and with LATENTUM_KERNELS=off in the environment, twins are
    used throughout.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not fits or (mesh.size > 1 and split is None) or not kernels_are_on():
        return twin(*args)

    def run(*args: Any) -> Any:
        return jax.lax.platform_dependent(
            *args,
            cuda=lambda *args: kernel(GPU, *args),
            tpu=(lambda *args: kernel(TPU, *args)) if tpu else twin,
            default=twin,
        )

    if mesh.size < 2:
        return run(*args)
    part = lambda *args: split.joined(run(*args))  # noqa: E731
    specs = {"in_specs": split.given, "out_specs": split.made}
    return jax.shard_map(part, **specs, check_vma=False)(*args)
