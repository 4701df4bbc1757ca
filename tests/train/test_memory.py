"""When training restarts itself with another heap."""

import os
import platform
import sys

import pytest

from latentum_jax.train import memory


@pytest.fixture(autouse=True)
def linux_without_accelerator(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(memory, "ACCELERATORS", ())


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": ""}, True),
        ({"JAX_PLATFORMS": "cuda"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, False),
    ],
)
def test_environment(environ, wanted):
    """Training would be half as fast, or a user's own settings be overwritten."""
    assert memory.wants_tunables(environ) == wanted


def test_elsewhere(monkeypatch, tmp_path):
    """A machine with an accelerator, without glibc or with another system would be meddled with."""
    monkeypatch.setattr(memory, "ACCELERATORS", (str(tmp_path),))
    assert not memory.wants_tunables({})
    monkeypatch.setattr(memory, "ACCELERATORS", ())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.wants_tunables({})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.wants_tunables({})


def test_restart_is_the_same_command_and_happens_once(monkeypatch):
    """The run would be another one, or restart for ever."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.setattr(os, "environ", {"HOME": "/root"})
    memory.restart_with_huge_pages()
    [(program, argv, environ)] = calls
    assert (program, argv) == (sys.executable, sys.orig_argv)
    assert environ == {"HOME": "/root", "GLIBC_TUNABLES": memory.TUNABLES}
    assert not memory.wants_tunables(environ)
