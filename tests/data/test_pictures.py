"""Pictures in a folder."""

import pytest

from latentum_jax.data.pictures import Pictures


def test_pictures_of_a_folder_in_order(tmp_path):
    """Another order on another host would train on other batches."""
    names = ["b.PNG", "a/z.jpg", "c.jpeg", "a/b/c.webp"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = Pictures(tmp_path)
    assert len(source) == 4
    assert list(source) == sorted(tmp_path / name for name in names)


def test_no_pictures(tmp_path):
    """Said before any training starts, with the path."""
    with pytest.raises(ValueError, match=rf"{tmp_path} has no pictures \(\.jpg"):
        Pictures(tmp_path)
