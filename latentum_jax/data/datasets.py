"""Texts with pictures from tensorflow-datasets, in any order.

`tfds.data_source` reads array_record files without TensorFlow's pipelines; to decode pictures it
needs TensorFlow all the same, and so an extra of its own: `pip install latentum_jax[tfds]`.
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from latentum_jax.data.faults import BadSample
from latentum_jax.data.text_image import TextImage
from latentum_jax.images import load_image


class Source(Protocol):
    """What `tfds.data_source` returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class TextImages:
    """Entries of a random-access source as texts with pictures.

    name: what error messages call the source.
    image, text: features of an entry; "a/b" is feature b of a. A picture is uint8 [H, W, 1, 3 or 4]
      or a file's bytes, a text a string or its bytes in UTF-8.

    Raises ValueError where the source is empty.
    """

    def __init__(self, source: Source, name: str, *, image: str = "image", text: str = "text"):
        self.source, self.name, self.image, self.text = source, name, image, text
        if not len(source):
            raise ValueError(f"{name}: there are no entries in it")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> TextImage:
        """An entry. Raises BadSample where its features are missing or of another kind."""
        where = f"{self.name}, entry {index}"
        entry = self.source[index]
        text = _text(_feature(entry, self.text, where), self.text, where)
        return TextImage(where, text, _picture(_feature(entry, self.image, where), where))


def open_tfds(
    name: str,
    split: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    image: str = "image",
    text: str = "text",
) -> TextImages:
    """A split of a data set that tensorflow-datasets has prepared in `folder`, or in its own.

    Raises ValueError, one sentence, where the library or the data set is not there.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"{name}: reading it needs tensorflow-datasets: `pip install latentum_jax[tfds]`"
        ) from error
    try:
        source = tfds.data_source(name, split=split, data_dir=folder, download=False)
    except Exception as error:  # whatever an unknown name or an empty folder leads tfds to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{name}, split {split}: cannot be opened ({reason[0]})") from error
    return TextImages(source, f"{name}, split {split}", image=image, text=text)


def _feature(entry: Any, path: str, where: str) -> Any:
    for name in path.split("/"):
        if not isinstance(entry, Mapping) or name not in entry:
            had = sorted(entry) if isinstance(entry, Mapping) else type(entry).__name__
            raise BadSample(where, f"expected a feature {path}, {name} is not in {had}")
        entry = entry[name]
    return entry


def _text(value: Any, name: str, where: str) -> str:
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise BadSample(where, f"{name} is not UTF-8 ({error})") from error
    if not isinstance(text, str) or not text.strip():
        raise BadSample(where, f"expected a text as {name}, got {text!r:.80}")
    return text


def _picture(value: Any, where: str) -> bytes | np.ndarray:
    if isinstance(value, bytes):
        return value
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        shape = list(array.shape)
        raise BadSample(
            where, f"a picture of {array.dtype} {shape}, expected uint8 [H, W, 1, 3, 4]"
        )
    if array.shape[-1] == 3:
        return array
    with_alpha = array.shape[-1] == 4
    return np.asarray(load_image(Image.fromarray(array if with_alpha else array[..., 0])))
