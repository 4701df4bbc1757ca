"""Programs kept whole: a later run of the same function neither traces nor compiles."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import chex
import jax
import jax.numpy as jnp
import pytest

from latentum_jax import kept
from latentum_jax.generate.rows import RowLimits

PROCESS = """
from latentum_jax.programs import keep_programs
keep_programs()
import jax, jax.numpy as jnp
from latentum_jax.kept import program

@program()
def normed(x):
    print("traced", end=" ")
    return jax.lax.fori_loop(0, 3, lambda i, x: jnp.linalg.norm(x @ x + 1) + 0 * x, x)[0, 0]

print(float(normed(jnp.zeros((4, 4)))))
"""
X = jnp.arange(6.0).reshape(2, 3)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Each call makes the function anew, as another process would: what it was traced for."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setattr("latentum_jax.programs._asked", True)
    traced = []

    def again(*args, **kwargs):
        @kept.program(static=("by",), donate=("keys",))
        def scaled(x, keys=None, *, by: float = 2.0):
            traced.append((by, x.dtype.name))
            drawn = None if keys is None else jax.vmap(jax.random.normal)(keys)
            return RowLimits(x * by, drawn, by + jnp.zeros(2))

        return scaled(*args, **kwargs)

    again.traced, again.folder = traced, tmp_path / "programs"
    return again


def test_a_later_run_does_not_trace(run):
    """Breaks if what was kept is not read, or gives something else; 2 x 5 is 10."""
    first = run(X)
    assert run.traced == [(2.0, "float32")]
    chex.assert_trees_all_equal(run(x=X), first)
    assert run.traced == [(2.0, "float32")]
    assert isinstance(first, RowLimits) and first.steps[1, 2] == 10


def test_what_makes_another_program(run, monkeypatch):
    """Breaks if an argument that is part of the program, a shape, a type, a weak type, a setting or
    older code is answered with another's program."""
    run(X)
    chex.assert_trees_all_equal(run(X, by=3.0).steps, 3 * X)
    chex.assert_shape(run(X[:1]).steps, (1, 3))
    assert run(X.astype(jnp.int32), by=4).steps.dtype == jnp.int32
    run(2.0)  # a number of Python's, weakly typed
    run(jnp.float32(2.0))
    with jax.default_matmul_precision("highest"):
        run(X)
    assert len(run.traced) == 7


def test_after_the_code_has_changed(run, monkeypatch):
    """Breaks if what older code traced is taken, or what is lowered to the same compiled again."""
    run(X)
    files = set(run.folder.glob("*.program"))
    monkeypatch.setattr("latentum_jax.programs._code", lambda: "newer")
    chex.assert_trees_all_equal(run(X).steps, 2 * X)
    assert len(run.traced) == 2
    assert set(run.folder.glob("*.program")) == files
    run(X)
    assert len(run.traced) == 2


def test_keys_and_donated_buffers(run):
    """Breaks if random keys do not come through, or a program that was read gives nothing up."""
    keys = lambda: jax.vmap(jax.random.key)(jnp.arange(2))  # noqa: E731
    expected = jax.vmap(jax.random.normal)(keys())
    for _ in range(2):
        given = keys()
        chex.assert_trees_all_close(run(X, given).images, expected)
    assert len(run.traced) == 1


def test_inside_another_program(run):
    """Breaks if tracers are taken for arrays: what holds them is another program's part."""
    inner = jax.jit(lambda x: run(x, by=5.0).steps + 1)
    chex.assert_trees_all_equal(inner(X), 5 * X + 1)
    assert not run.folder.exists()
    with jax.disable_jit():
        chex.assert_trees_all_equal(run(X).steps, 2 * X)
    assert not run.folder.exists()


def test_threads_wait_for_the_first(run):
    """Breaks if lanes that start together each compile the same."""
    program = kept.program(static=("by",))(lambda x, *, by: run.traced.append(by) or x * by)
    together = Barrier(4)

    def go(_):
        together.wait()
        return program(X, by=2.0)

    with ThreadPoolExecutor(4) as threads:
        for made in threads.map(go, range(4)):
            chex.assert_trees_all_equal(made, 2 * X)
    assert run.traced == [2.0]


@pytest.mark.parametrize("damage", [lambda kept: b"junk", lambda kept: kept[: len(kept) // 2]])
def test_a_damaged_program_is_made_anew(run, damage, capsys):
    """Breaks if a damaged file stops the run, goes unsaid, or stays damaged for ever."""
    run(X)
    (file,) = run.folder.glob("*.program")
    file.write_bytes(damage(file.read_bytes()))
    chex.assert_trees_all_equal(run(X).steps, 2 * X)
    assert f"{file} is damaged: it is made anew" in capsys.readouterr().err
    assert len(run.traced) == 2
    chex.assert_trees_all_equal(run(X).steps, 2 * X)
    assert len(run.traced) == 2 and not capsys.readouterr().err


def test_what_jax_has_read_is_not_kept(tmp_path):
    """Breaks if a program that comes out of jax's own cache is written again: it would be read, and
    then fail; or if that is so in every run. Of 16 zeros 4, then 260 and 1081604, by 4 (4 x^2 + 1).
    """
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def go():
        done = subprocess.run(
            [sys.executable, "-c", PROCESS], env=env, capture_output=True, text=True, check=True
        )
        *traced, result = done.stdout.split()
        assert float(result) == 1081604.0
        return bool(traced)

    assert [go(), go()] == [True, False]
    (kept,) = tmp_path.glob("*.program")
    kept.unlink()
    assert [go() for _ in range(3)] == [True, True, False]


def test_where_nothing_can_be_kept(run, monkeypatch, tmp_path):
    """Breaks if a folder that takes nothing stops a run, or one who wants none gets one."""
    (tmp_path / "file").touch()
    for nowhere in (str(tmp_path / "file"), ""):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", nowhere)
        chex.assert_trees_all_equal(run(X).steps, 2 * X)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(run.folder))
    monkeypatch.setattr("latentum_jax.programs._asked", False)
    run(X)
    assert not run.folder.exists()
