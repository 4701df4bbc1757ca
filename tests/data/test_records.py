"""Rows in shards: they come back as they were, and a folder that is not whole is not read."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from latentum_jax.data.records import Records, RecordWriter, fingerprint


def row(n):
    return {
        "codes": np.arange(6, dtype=np.int32).reshape(2, 3).T + n,  # not contiguous
        "valid": np.array([True, False]),
        "scale": np.float32(n) * np.ones((), np.float32),
        "none": np.zeros((0, 4), np.uint8),
    }


def write(folder, shards, finish=True):
    writer = RecordWriter(folder, about="codes", made_by="model 1")
    for numbers in shards:
        writer.write_shard(row(n) for n in numbers)
    if finish:
        writer.finish()
    return writer


def test_rows_come_back_as_they_were(tmp_path):
    """Codes in another order draw other pictures."""
    write(tmp_path, [range(3), range(3, 5)])
    rows = Records(tmp_path, made_by="model 1")
    assert (len(rows), rows.about) == (5, "codes")
    for n in (4, 0, 2, 3):
        assert rows[n].keys() == row(n).keys()
        for name, value in row(n).items():
            np.testing.assert_array_equal(rows[n][name], value)
            assert (rows[n][name].dtype, rows[n][name].shape) == (value.dtype, value.shape)
    assert json.loads((tmp_path / "records.json").read_text())["rows"] == 5


def test_goes_on_where_it_stopped(tmp_path):
    """A run that is ended in the middle of a shard makes it anew and no row twice."""

    def rows():
        yield row(3)
        raise KeyboardInterrupt

    writer = write(tmp_path, [range(3)], finish=False)
    with pytest.raises(KeyboardInterrupt):
        writer.write_shard(rows())
    assert writer.done() == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "records.json",
        "rows-00000.array_record",
    ]
    again = RecordWriter(tmp_path, about="codes", made_by="model 1")
    assert again.done() == 3
    again.write_shard(row(n) for n in range(again.done(), 6))
    again.finish()
    assert [float(r["scale"]) for r in Records(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_from_several_threads(tmp_path):
    """A shared reader position would mix rows up."""
    write(tmp_path, [range(50), range(50, 100)])
    rows = Records(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: float(rows[n % 100]["scale"]), range(500)))
    assert found == [n % 100 for n in range(500)]


def test_rows_of_another_model(tmp_path):
    """Codes of another codebook are noise."""
    write(tmp_path, [range(2)], finish=False)
    with pytest.raises(ValueError, match="made_by is 'model 1', expected 'model 2'"):
        RecordWriter(tmp_path, about="codes", made_by="model 2")
    with pytest.raises(ValueError, match="about is 'codes', expected 'pixels'"):
        RecordWriter(tmp_path, about="pixels", made_by="model 1")
    with pytest.raises(
        ValueError, match=r"records\.json: made_by is 'model 1', expected 'model 2'"
    ):
        Records(tmp_path, made_by="model 2")


def test_rows_that_are_not_finished(tmp_path):
    """Half of them would be trained on as if they were all; all of them are not added to."""
    writer = write(tmp_path, [range(2)], finish=False)
    with pytest.raises(ValueError, match="finished is False, expected True"):
        Records(tmp_path)
    writer.finish()
    with pytest.raises(ValueError, match="finished is True, expected False"):
        RecordWriter(tmp_path, about="codes", made_by="model 1")


def test_missing_and_damaged_shards(tmp_path):
    """The rows behind a missing shard would have other numbers."""
    write(tmp_path, [range(2), range(2), range(2)])
    shard = tmp_path / "rows-00001.array_record"
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match=r"1 of 3 shards missing, first rows-00001\.array_record"):
        Records(tmp_path)
    shard.write_bytes(data[:100])
    with pytest.raises(ValueError, match=f"{tmp_path}: a shard is damaged"):
        Records(tmp_path)
    other = tmp_path / "other"
    write(other, [range(3)])
    shard.write_bytes((other / "rows-00000.array_record").read_bytes())
    with pytest.raises(ValueError, match="7 rows in its shards, expected 6"):
        Records(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, r"holds no rows: it has no records\.json"),
        ("{", r"records\.json does not describe rows of this library"),
        ("[]", "does not describe"),
        ('{"format": "latentum_jax-rows-1"}', "does not describe"),
        ('{"format": "other"}', "format is 'other'"),
    ],
)
def test_no_description(tmp_path, text, message):
    """Another folder was meant."""
    if text is not None:
        (tmp_path / "records.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Records(tmp_path)


def test_no_rows(tmp_path):
    """A run would otherwise start and find nothing to train on."""
    write(tmp_path, [])
    with pytest.raises(ValueError, match="there are no rows in it"):
        Records(tmp_path)


def test_fingerprint_is_of_contents_and_their_borders(tmp_path):
    """A model that was trained on keeps its name and its size."""
    a, b = tmp_path / "a", tmp_path / "b"
    seen = set()
    for first, second in [("xy", "z"), ("x", "yz"), ("xz", "y")]:
        a.write_text(first)
        b.write_text(second)
        seen |= {fingerprint([a, b]), fingerprint([b, a])}
    assert len(seen) == 6
    assert fingerprint([a, b]) == fingerprint([str(a), str(b)])
