"""Tar shards: every sample is found whatever wrote the tar, and what is broken is named."""

import gzip
import io
import json
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentum_jax.data import index
from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import RowShape, caption_row
from latentum_jax.data.text_image import text_image_row
from latentum_jax.data.webdataset import TarShards, shard_files
from latentum_jax.images import see
from tests.small import SMALL


def picture(seed=0, kind="JPEG"):
    """Bytes of a picture file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    return file.getvalue()


def write_tar(path, members, **options):
    """A tar of (name, bytes) members, in their order."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(first, count):
    return [
        member
        for n in range(first, first + count)
        for member in ((f"{n:06d}.jpg", picture(n)), (f"{n:06d}.txt", f"text {n}".encode()))
    ]


@pytest.fixture
def shards(tmp_path):
    """Three shards of 4, 0 and 3 samples."""
    for number, (first, count) in enumerate([(0, 4), (0, 0), (4, 3)]):
        write_tar(tmp_path / f"shard-{number:06d}.tar", pairs(first, count))
    return tmp_path


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_samples_in_any_order(shards, monkeypatch, keep):
    """A text with the picture of another one teaches nonsense."""
    monkeypatch.setattr(index, "KEEP", keep)
    for _ in range(2):  # the second time by the index that was kept
        source = TarShards(shards)
        assert len(source) == 7
        for n in (6, 0, 3, 5, 4):
            assert source[n].text == f"text {n}" and source[n].image == picture(n)
        assert str(source[5].where) == f"{shards / 'shard-000002.tar'}, 000005.jpg"
    with pytest.raises(IndexError):
        source[7]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "f" * 60 + "/", "g" * 90 + "/" + "h" * 60 + "/", "ä€/"])
def test_names_of_every_format(tmp_path, format, folder):
    """Long names stand in a prefix, in GNU's extra members or in pax records."""
    base = "12345" * 12
    members = [(folder + base + "0.json", b'{"caption": "one"}'), (folder + base + "0.jpg", b"1")]
    members += [(folder + base + "1.jpg", b"22"), (folder + base + "1.txt", b"two")]
    source = TarShards(write_tar(tmp_path / "a.tar", members, format=format))
    assert [(s.text, s.image) for s in source] == [("one", b"1"), ("two", b"22")]


def test_what_else_stands_in_tars(tmp_path):
    """Folders, links, global headers and files of other kinds belong to no sample."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "made by hand"}) as tar:
        folder, link = tarfile.TarInfo("d"), tarfile.TarInfo("d/0.jpeg")
        folder.type, link.type, link.linkname, link.size = b"5", b"2", "elsewhere", 700
        tar.addfile(folder)
        tar.addfile(link)
        for name, data in [
            ("README.md", b"#" * 513),
            ("d/1.PNG", b"p"),
            ("d/1.cls", b"3"),
            ("d/1.json", b'{"caption": "by json"}'),
            ("d/1.txt", b"by txt"),
            ("d/2.webp", b"w"),
            ("d/2.txt", b"two"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [(s.text, s.image) for s in TarShards(path)] == [("by txt", b"p"), ("two", b"w")]


def test_a_key_that_comes_twice(tmp_path):
    """The second picture of a key would take the place of the first, or its text."""
    members = [("0.jpg", b"a"), ("0.txt", b"one"), ("0.jpg", b"b"), ("0.txt", b"two")]
    source = TarShards(write_tar(tmp_path / "a.tar", members))
    assert [(s.text, s.image) for s in source] == [("one", b"a"), ("two", b"b")]


def test_tars_one_behind_the_other(tmp_path):
    """`cat a.tar b.tar` would lose all of b at a's end mark."""
    parts = [write_tar(tmp_path / f"{n}.tar", pairs(n, 1)).read_bytes() for n in range(2)]
    (tmp_path / "both.tar").write_bytes(b"".join(parts))
    assert [s.text for s in TarShards(tmp_path / "both.tar")] == ["text 0", "text 1"]


def test_shards_by_name(shards):
    """All ways to name shards find the same, in the same order."""
    files = [shards / f"shard-{n:06d}.tar" for n in range(3)]
    assert shard_files(shards) == files
    assert shard_files(str(shards / "shard-*.tar")) == files
    assert shard_files(str(shards / "shard-{000000..000002}.tar")) == files
    assert shard_files([files[2], str(shards / "shard-00000[01].tar")]) == [files[2], *files[:2]]
    assert shard_files(str(shards / "{0..0}{0..0}.tar").replace("{0..0}{", "shard-0000{0..0}{"))


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing-*.tar", r"nothing-\*\.tar: there are no tar shards"),
        ("empty", "empty: there are no tar shards"),
        ("nothing.tar", r"nothing\.tar: no such shard \(1 of 1 missing\)"),
        ("shard-{000001..000004}.tar", r"shard-000003\.tar: no such shard \(2 of 4 missing\)"),
        ("shard-000001.tar", "no samples in 1 shards"),
    ],
)
def test_shards_that_are_not_there(shards, name, message):
    """Half a data set would be trained on without a word."""
    (shards / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        TarShards(str(shards / name))
    with pytest.raises(ValueError, match="no tar shards"):
        TarShards([])


@pytest.mark.parametrize(
    "kept, message",
    [
        (0, "it ends at byte 0 without a tar's end mark"),
        (100, "it ends at byte 100, in a header"),
        (512, "000000.jpg ends at byte 1536, the file at byte 512"),
        (700, "000000.jpg ends at byte 1536, the file at byte 700"),
        (1536, "it ends at byte 1536 without a tar's end mark"),
        (2047, "it ends at byte 2047, in a header"),
        (2048, "000000.txt ends at byte 2560, the file at byte 2048"),
        (2559, "000000.txt ends at byte 2560, the file at byte 2559"),
        (2560, "it ends at byte 2560 without a tar's end mark"),
    ],
)
def test_a_tar_cut_short(tmp_path, kept, message):
    """A download that broke off, wherever it did."""
    path = tmp_path / "a.tar"
    write_tar(path, [("000000.jpg", b"x" * 600), ("000000.txt", b"x"), ("1.jpg", b"x")])
    assert len(TarShards(path)) == 2
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"a\.tar is cut short: {message}"):
        TarShards(path)


def test_a_tar_that_is_none(tmp_path):
    """A compressed one, or another file."""
    path = write_tar(tmp_path / "a.tar", pairs(0, 2))
    damaged = bytearray(path.read_bytes())
    damaged[0] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.tar: expected an uncompressed tar.* at byte 0"):
        TarShards(path)
    (tmp_path / "b.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"b\.tar: expected an uncompressed tar.* at byte 0"):
        TarShards(tmp_path / "b.tar")


@pytest.mark.parametrize(
    "members, message",
    [
        ({"0.jpg": b"x"}, r"a\.tar, 0\.jpg: a picture without a text"),
        ({"0.txt": b"x"}, r"a\.tar, 0\.txt: a text without a picture"),
        ({"0.jpg": b"x", "0.txt": b" \n"}, r"a\.tar, 0\.jpg: expected a text, there is none"),
        ({"0.jpg": b"x", "0.txt": b"\xff"}, r"a\.tar, 0\.jpg: its text is not UTF-8"),
        ({"0.jpg": b"x", "0.json": b"{"}, r"0\.jpg: its text is not JSON"),
        ({"0.jpg": b"x", "0.json": b"[]"}, r'0\.jpg: expected a text in the "caption"'),
        ({"0.jpg": b"x", "0.json": b'{"text": 1}'}, r'0\.jpg: expected a text in the "caption"'),
    ],
)
def test_broken_samples_are_named(tmp_path, members, message):
    """They are few among millions; the ones beside them are read all the same."""
    given = [*members.items(), *pairs(1, 1)]
    source = TarShards(write_tar(tmp_path / "a.tar", given))
    with pytest.raises(BadSample, match=message):
        source[0]
    assert source[1].text == "text 1"


def test_a_tar_that_shrinks_while_it_is_open(tmp_path):
    """Someone writes the shard anew: what is read is no picture."""
    path = write_tar(tmp_path / "a.tar", pairs(0, 2))
    source = TarShards(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(BadSample, match="cut short since the shards were opened"):
        _ = source[0].image


def test_from_several_threads_and_with_few_open_files(shards, monkeypatch):
    """A file that is closed, or moved on, under a thread that reads it gives another's bytes."""
    monkeypatch.setattr("latentum_jax.data.webdataset.OPEN", 1)
    source = TarShards(shards)
    order = random.Random(0).choices(range(7), k=2000)
    with ThreadPoolExecutor(8) as threads:
        samples = list(threads.map(source.__getitem__, order))
        pictures = list(threads.map(lambda sample: sample.image, samples))
    assert [s.text for s in samples] == [f"text {n}" for n in order]
    assert all(x == picture(n) for x, n in zip(pictures[:50], order, strict=False))
    links = [Path("/dev/fd") / name for name in os.listdir("/dev/fd")]
    opened = [link for link in links if link.is_symlink() and shards in link.resolve().parents]
    assert len(opened) == 1


def test_a_row_of_a_sample(shards, small):
    """It is what `caption_row` makes of the decoded picture."""
    sample = TarShards(shards)[2]
    shape = RowShape(40, 1, 1, SMALL.vision)
    decoded = Image.open(io.BytesIO(picture(2)))
    expected = caption_row("text 2", see(decoded, SMALL.vision), small.tokenizer, shape)
    row = text_image_row(sample, small.tokenizer, shape)()
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(row[name], value)


@pytest.mark.parametrize(
    "data, text, message",
    [
        (b"no picture", "text", "not an image in a format that Pillow reads"),
        (picture()[:-300], "text", "damaged or cut short"),
        (picture(), "word " * 50, "tokens, at most 40 fit"),
    ],
)
def test_samples_that_make_no_row(tmp_path, small, data, text, message):
    """They are taken for broken ones, by name, not for an end of the run."""
    path = write_tar(tmp_path / "a.tar", [("0.jpg", data), ("0.txt", text.encode())])
    with pytest.raises(BadSample, match=rf"a\.tar, 0\.jpg: .*{message}"):
        text_image_row(TarShards(path)[0], small.tokenizer, RowShape(40, 1, 1, SMALL.vision))()


def test_a_text_may_be_long_json(tmp_path):
    """Sidecars hold more than the text."""
    said = json.dumps({"text": "second", "caption": "first", "other": "x" * 2000}).encode()
    path = write_tar(tmp_path / "a.tar", [("0.json", said), ("0.png", b"p")])
    assert TarShards(path)[0].text == "first"
