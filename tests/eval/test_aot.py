"""Compiling for a device that is not here. Needs the compilers of the extra `aot`."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from latentum_jax.config import DecoderConfig, LatentUMConfig
from latentum_jax.devices import describe
from latentum_jax.eval import aot
from latentum_jax.eval.hlo import Program
from tests.devices import compiles

TINY = LatentUMConfig.tiny()
CONFIG = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, num_layers=1),
    language=dataclasses.replace(TINY.language, num_layers=2),
)
PROGRAMS = ("encode", "prefill", "generate", "answer", "plan", "decode")
BATCH = 2


@pytest.fixture(scope="module", params=["h100", "v5e"])
def results(request):
    """Every program of a small model, for a GPU and for a TPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(aot.SIZES, "small", CONFIG)
        patch.setitem(aot.DECODERS, "small", DecoderConfig.tiny())
        return aot.compile_for(request.param, (BATCH,), size="small")


@compiles
def test_every_program_compiles(results):
    """Breaks if a program does not lower for the device, or a figure of it is missing."""
    rows = results["rows"]
    assert [(row["program"], row["batch"]) for row in rows] == [(n, BATCH) for n in PROGRAMS]
    assert all(row.get("error") is None and row["argument_bytes"] > 0 for row in rows)
    assert all(name in aot.table(results) for name in (*PROGRAMS, results["target"]))


@compiles
def test_a_visual_token_reads_its_weights_once(results):
    """Breaks if the compiled loop copies weights, reads the other branch, or misses a layer."""
    (row,) = [row for row in results["rows"] if row["program"] == "generate"]
    c, q, d = CONFIG.language, CONFIG.quantizer, CONFIG.language.hidden_size
    attention = d * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
    layer = attention + 3 * d * c.mlp_size + 2 * d + 2 * c.head_dim
    head_layer = (4 * d * d + d) + (2 * 4 * d * d + 5 * d) + 2 * d + 2 * d // CONFIG.head.num_heads
    a_code = CONFIG.head.num_layers * head_layer + d + d * q.codebook_size + q.codebook_size
    projector = q.embedding_dim * d + d + d * d + d
    expected = 2 * (c.num_layers * layer + d + projector + q.num_codebooks * a_code)
    assert row["floor_bytes_per_token"] == expected
    # Above it are the rows of the codebook and of the head's table that the codes pick; a TPU may
    # keep some of the head from one code to the next.
    least = 0.5 if results["target"] == "v5e" else 1
    assert least * expected <= row["weight_bytes_per_token"] <= 1.02 * expected


@compiles
def test_the_cache_is_written_in_place(results):
    """Breaks if the loop takes the cache for itself instead of writing into the one it is given."""
    (row,) = [row for row in results["rows"] if row["program"] == "generate"]
    c = CONFIG.language
    slots = aot.PADDED + CONFIG.vision.num_tokens
    assert row["cache_bytes"] == 2 * 2 * c.num_layers * 2 * BATCH * slots * c.num_kv_heads * 32
    assert row["output_bytes"] < row["cache_bytes"] / 2


@compiles
def test_8_bits_halve_what_a_visual_token_reads():
    """Breaks if a kernel in 8 bits is read wider than that, or turned into another before."""
    (device,), read = describe("h100"), {}
    for weights in (None, "int8"):
        made = aot.programs(CONFIG, None, jnp.dtype("bfloat16"), BATCH, device, weights)
        (program,) = [program for program in made if program.name == "generate"]
        text = Program.parse(program.compile("h100").as_text())
        loop = text.loop(CONFIG.vision.num_tokens)
        read[weights] = text.invariant_bytes(loop)
        assert text.copies(loop, CONFIG.language.hidden_size**2 // 2) == []
    assert read["int8"] < 0.55 * read[None]


@compiles
def test_a_tpu_lays_no_kernel_anew():
    """A layer of each part, as wide as published. Breaks if kernels lie otherwise than a TPU's
    compiler wants them: of these it would turn 78 MB before the first visual token."""
    full = LatentUMConfig()
    parts = {name: getattr(full, name) for name in ("vision", "language", "head")}
    one = {name: dataclasses.replace(part, num_layers=1) for name, part in parts.items()}
    config = dataclasses.replace(full, **one)
    (device,) = describe("v5e")
    made = aot.programs(config, None, jnp.dtype("bfloat16"), 1, device)
    (program,) = [program for program in made if program.name == "generate"]
    assert program.compile("v5e").memory_analysis().temp_size_in_bytes < 10e6


@compiles
def test_it_compiles_again_without_a_word(tmp_path, recwarn):
    """Breaks if a program for a device that is not here is kept on disk, where the next run would
    take it for a damaged one."""
    made = aot.programs(CONFIG, None, jnp.dtype("bfloat16"), BATCH, describe("v5e")[0])
    encode = next(iter(made))
    folder, seconds = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in (folder, seconds)}
    try:
        jax.config.update(folder, str(tmp_path))
        jax.config.update(seconds, 0.0)
        encode.compile("v5e")
        encode.compile("v5e")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert list(tmp_path.iterdir()) == []
    assert not [w for w in recwarn if "persistent compilation cache" in str(w.message)]


def test_largest_batch():
    """1 GB, and 2 GB a row above the first: into 10 GB go 5, and none is known from one batch."""
    rows = [
        {"program": "p", "batch": batch, "argument_bytes": size, "temp_bytes": 0, "output_bytes": 0}
        for batch, size in ((1, 1), (4, 7))
    ]
    assert aot.largest_batch(rows[0], rows, 10) == 5
    assert aot.largest_batch(rows[0], rows[:1], 10) is None
    failed = {"program": "p", "batch": 16, "error": "too large"}
    assert aot.largest_batch(failed, [*rows, failed], 10) == 5


@pytest.mark.parametrize(
    "target, size, message",
    [
        ("h200", "full", "target is 'h200', expected one of"),
        ("h100", "huge", "size is 'huge', expected one of"),
    ],
)
def test_bad_input(target, size, message):
    """One sentence, before anything is compiled."""
    with pytest.raises(ValueError, match=message):
        aot.compile_for(target, (1,), size=size)
