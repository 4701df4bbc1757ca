"""Rows on several cores against all of them together."""

import threading

import numpy as np
import pytest

from latentum_jax.config import ChatConfig
from latentum_jax.cores import groups, side_by_side
from latentum_jax.generate.sampling import SAMPLED
from latentum_jax.models.folder import ModelFolder
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import Tokenizer
from tests.published import GOLDEN, config, params


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 1)
    monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: 2)


def test_each_core_has_its_rows(two_cores, monkeypatch):
    """Breaks if rows are lost, come twice, or change places; if groups are of two sizes, which
    would be two programs; or if one waits for the other: then neither would pass the barrier."""
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 2)
    both, sizes = threading.Barrier(2, timeout=30), []

    def run(numbers, letters):
        sizes.append(len(numbers))
        both.wait()
        return {"squares": numbers**2, "told": (np.char.upper(letters),)}

    made = side_by_side(run, np.arange(5), list("abcde"))
    np.testing.assert_array_equal(made["squares"], [0, 1, 4, 9, 16])
    assert "".join(made["told"][0]) == "ABCDE" and sizes == [3, 3]


def test_no_core_has_none_of_the_rows(two_cores, monkeypatch):
    """Breaks if padding fills a group of its own: five rows for four cores are two, two and one."""
    monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: 4)
    calls = []
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 2)
    made = side_by_side(lambda x: calls.append(x.tolist()) or x, np.arange(9))
    assert sorted(calls) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert made.tolist() == list(range(9))


def test_groups(two_cores, monkeypatch):
    """As many for each core, and no smaller than is worth it. Breaks if a core has nothing to do
    while the other goes through the last group, or a GPU's batch is taken apart."""
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 8)
    sizes = {rows: groups(rows) for rows in (1, 15, 16, 24, 31, 32, 40, 64)}
    assert sizes == {1: 1, 15: 1, 16: 2, 24: 2, 31: 2, 32: 2, 40: 2, 64: 4}
    assert [groups(rows, 1) for rows in (1, 2, 3)] == [1, 2, 2]
    monkeypatch.setattr("latentum_jax.cores.jax.default_backend", lambda: "gpu")
    assert groups(64) == 1


def test_rows_that_stay_together(two_cores, monkeypatch):
    """Breaks if what is one program anyway is copied, or a core gets too few rows."""
    given = np.arange(5)
    assert side_by_side(lambda x: x, given, apart=False) is given
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 3)
    assert side_by_side(lambda x: x, given) is given
    monkeypatch.setattr("latentum_jax.cores.FEWEST", 1)
    monkeypatch.setattr("latentum_jax.cores.jax.default_backend", lambda: "gpu")
    assert side_by_side(lambda x: x, given) is given


def test_a_fault_on_one_core_is_told(two_cores):
    """Breaks if half of the rows are returned as all of them."""
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda x: [1 // int(4 not in x)], np.arange(5))


def test_a_model_says_and_draws_the_same(two_cores, monkeypatch):
    """Breaks if prompts, lengths, pictures or seeds reach another row's core."""
    tokenizer = Tokenizer.from_folder(GOLDEN / "tiny")
    model = LatentUM(ModelFolder(config(), ChatConfig(), params(), tokenizer))
    pictures = [GOLDEN / f"world_model/context_{i}.png" for i in range(3)]
    asked = ["what", "what is there", "go on"]

    def made():
        said = model.answer(pictures, asked, max_new_tokens=6, sampling=SAMPLED, seeds=[4, 5, 6])
        return said, model.generate(asked, seeds=[7, 8, 9])

    said, drawn = made()
    monkeypatch.setattr("latentum_jax.cores.os.cpu_count", lambda: 1)
    told, expected = made()
    assert said == told and len(set(said)) == 3
    np.testing.assert_array_equal(drawn, expected)
