"""Programs on disk: a second run reads what the first has compiled."""

import os
import subprocess
import sys

import pytest

from latentum_jax.programs import default_folder, keep_programs, known

RUN = """
from latentum_jax.programs import keep_programs
keep_programs()
import jax, jax.numpy as jnp
read = []
jax.monitoring.register_event_listener(lambda event, **_: read.append(event.endswith("cache_hits")))
print(float(jax.jit(lambda x: jnp.linalg.norm(x @ x + 1))(jnp.ones((4, 4)))), sum(read))
"""


@pytest.fixture
def run(tmp_path):
    """A fresh process: what it prints, the result and how many programs it has read."""
    folder = tmp_path / "programs"

    def go():
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PLATFORMS": "cpu"}
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        done = subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True)
        result, read = done.stdout.split()
        assert float(result) == 20.0  # of 16 numbers, each 4 + 1
        return int(read), done.stderr

    go.folder = folder
    return go


def test_a_second_run_compiles_nothing(run):
    """Breaks if jax is told too late, or too little."""
    assert run()[0] == 0
    made = len(list(run.folder.iterdir()))
    read, said = run()
    assert read > 0 and "warning" not in said
    assert len(list(run.folder.iterdir())) >= made


def test_a_damaged_program_is_made_anew(run):
    """Breaks if a damaged program stops the run, or stays damaged for ever."""
    run()
    for file in run.folder.glob("*-cache"):
        file.write_bytes(b"junk")
    read, said = run()
    assert read == 0
    assert "has a damaged program, jit_" in said and "Traceback" not in said
    read, said = run()
    assert read > 0 and "damaged" not in said


def test_where_they_are_kept(monkeypatch, tmp_path):
    """Breaks if a user's own folder, or their wish for none, is overruled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().parent == tmp_path / "latentum_jax"
    for chosen in ("", str(tmp_path / "own")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
        with monkeypatch.context() as patch:
            patch.setattr("warnings.showwarning", lambda *args: None)
            keep_programs()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == chosen


def test_what_tracing_found_is_kept(monkeypatch, tmp_path):
    """Breaks if a model's shapes are traced again in every run, or one model has another's,
    or a damaged file or a folder that takes nothing stops the run."""
    found = []

    def find():
        found.append(len(found))
        return {"kernel": [len(found), 2]}

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert known("shapes", "one", find) == known("shapes", "one", find) == {"kernel": [1, 2]}
    assert known("shapes", "other", find) == {"kernel": [2, 2]}
    for file in tmp_path.iterdir():
        file.write_text("junk")
    assert known("shapes", "one", find) == known("shapes", "one", find) == {"kernel": [3, 2]}
    (tmp_path / "file").touch()
    for nowhere in ("", str(tmp_path / "file")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", nowhere)
        known("shapes", "one", find)
    assert len(found) == 5
