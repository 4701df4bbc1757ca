"""Kernels in programs for an H100 and for a TPU, at the sizes of the full model."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from latentum_jax.devices import compile_afresh, describe
from latentum_jax.eval import aot
from latentum_jax.eval.hlo import Program
from latentum_jax.kernels.codebook import nearest_code, nearest_kernel
from latentum_jax.kernels.decode import decode_attention
from latentum_jax.kernels.dispatch import SWITCH, TPU
from latentum_jax.kernels.flash import flash_attention
from latentum_jax.kernels.placement import Placement
from latentum_jax.kernels.sampling import Sampling, pick
from latentum_jax.sharding import make_mesh
from tests.devices import compiles

KERNEL = {"h100": "__gpu$xla.gpu.triton", "v5e": "tpu_custom_call"}
T, SLOTS = 1024, 2000  # the cache's last block is not full
f32, bf16, i32 = jnp.float32, jnp.bfloat16, jnp.int32
targets = pytest.mark.parametrize("target", KERNEL)


def train(q, k, v, *at):
    """An attention layer as a training step has it."""
    q_at = k_at = Placement(*at)
    loss = lambda q, k, v: jnp.sum(flash_attention(q, k, v, q_at, k_at).astype(f32))  # noqa: E731
    return jax.grad(loss, (0, 1, 2))(q, k, v)


PROGRAMS = {
    "flash": (
        train,
        [((2, n, T, 128), bf16) for n in (32, 8, 8)]
        + [((2, T), i32)] * 3
        + [((2, T), bool), ((2, T), i32)],
        3,
    ),
    "decode": (
        decode_attention,
        [((4, 16, 128), bf16), *[((4, 8, SLOTS, 128), bf16)] * 2, ((4,), i32)],
        1,
    ),
    "sampling": (functools.partial(pick, sampling=Sampling()), [((4, 2048), f32)] * 2, 1),
    "codebook": (nearest_code, [((1024, 8, 32), f32), ((8, 2048, 32), f32)], 1),
}


def compiled(target, made, shapes):
    """What the compiler makes of it: kernels by name, and bytes of temporaries."""
    place = SingleDeviceSharding(describe(target)[0])
    given = [jax.ShapeDtypeStruct(*x, sharding=place) for x in shapes]
    lower = functools.partial(jax.jit(lambda *args: made(*args)).lower, *given)
    program = aot.Lowered("kernel", lower).compile(target)
    text = Program.parse(program.as_text())
    return text.custom_calls(), program.memory_analysis().temp_size_in_bytes


@compiles
@targets
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_are_in_the_program(target, name):
    """Breaks if a kernel does not lower for the device, or the rule leaves it out."""
    made, shapes, count = PROGRAMS[name]
    if (name, target) == ("codebook", "v5e"):  # left to its twin there, but it has to lower
        made = functools.partial(nearest_kernel, TPU)
    kernels, _ = compiled(target, made, shapes)
    assert kernels[KERNEL[target]] == count


@compiles
@targets
@pytest.mark.parametrize("name", PROGRAMS)
def test_they_can_be_switched_off(target, name, monkeypatch):
    """Breaks if a user whose device or compiler fails with a kernel cannot do without."""
    monkeypatch.setenv(SWITCH, "off")
    made, shapes, _ = PROGRAMS[name]
    kernels, _ = compiled(target, made, shapes)
    assert KERNEL[target] not in kernels


@compiles
def test_what_they_keep_out_of_memory(monkeypatch):
    """On an H100: no scores [2 16 T T] in fp32, no distances [1024 8 2048]. The twins make them."""
    scores, distances = 2 * 16 * T * T * 4, 1024 * 8 * 2048 * 4
    sizes = {}
    for switch in ("on", "off"):
        monkeypatch.setenv(SWITCH, switch)
        sizes[switch] = [compiled("h100", *PROGRAMS[name][:2])[1] for name in ("flash", "codebook")]
    assert sizes["on"][0] < scores / 4 and sizes["on"][1] < distances / 4
    assert sizes["off"][0] >= scores and sizes["off"][1] >= distances


@compiles
def test_over_a_mesh_every_device_runs_them():
    """Breaks if a training step on a pod falls back to attention with its scores in memory."""
    mesh = make_mesh({"fsdp": 4, "tensor": 2}, describe("h100", 8))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    shapes = [((4, *shape[1:]), dtype) for shape, dtype in PROGRAMS["flash"][1]]
    given = [jax.ShapeDtypeStruct(*x, sharding=rows) for x in shapes]
    with jax.set_mesh(mesh):
        program = compile_afresh(jax.jit(lambda *args: train(*args)).lower(*given), "h100")
    assert Program.parse(program.as_text()).custom_calls()[KERNEL["h100"]] == 3
