"""A config's data: which rows, in which shapes, from mazes made on the fly or from files."""

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from latentum_jax.config import ChatConfig, DecoderConfig, LatentUMConfig, VisionConfig
from latentum_jax.data.frozenlake.stream import Bucket, MazePictures, MazeRows, Mazes, batch_of
from latentum_jax.data.interleaved import (
    InterleavedLines,
    Row,
    RowShape,
    interleaved_row,
    picture_row,
    stack,
)
from latentum_jax.data.pictures import Pictures
from latentum_jax.images import load_image
from latentum_jax.tokenizer import Tokenizer


def make_batches(
    config: ConfigDict, model: LatentUMConfig, chat: ChatConfig, tokenizer: Tokenizer
) -> Callable[[int], Row]:
    """index -> batch, a pure function of the config.

    Raises ValueError for an unknown source, or a JSONL file that breaks the format or whose
    samples do not fit.
    """
    data = config.data
    if data.source == "frozenlake":
        mazes = Mazes(tuple(data.levels), tuple(data.weights), data.harder)
        rows = MazeRows(tokenizer, model.vision, chat.system, mazes)
        buckets = [_bucket(rows, **bucket) for bucket in data.buckets]
        return functools.partial(batch_of, buckets, config.seed)
    if data.source == "jsonl":
        return _jsonl_batches(config, model, chat, tokenizer)
    raise ValueError(f"data.source is {data.source!r}, expected 'frozenlake' or 'jsonl'")


def make_pictures(
    config: ConfigDict, vision: VisionConfig, decoder: DecoderConfig
) -> Callable[[int], Row]:
    """The same for a decoder: rows of `picture_row`, of mazes or of the pictures in a folder.

    Raises ValueError for an unknown source, or a folder without pictures.
    """
    data, side, references = config.data, decoder.image_size, decoder.mmdit.references
    if data.source == "frozenlake":
        mazes = Mazes(tuple(data.levels), tuple(data.weights), data.harder)
        rows = MazePictures(vision, side, references, mazes)
        return lambda index: _picked(config.seed, index, data.rows, rows.row)
    if data.source == "images":
        if references:
            raise ValueError("data.source 'images' has single pictures, and references are asked")
        files = Pictures(data.path)
        draw = lambda rng: picture_row(files[int(rng.integers(len(files)))], vision, side)  # noqa: E731
        return lambda index: _picked(config.seed, index, data.rows, draw)
    raise ValueError(f"data.source is {data.source!r}, expected 'frozenlake' or 'images'")


def _picked(seed: int, index: int, rows: int, make: Callable[[np.random.Generator], Row]) -> Row:
    rng = np.random.default_rng((seed, index))
    return stack([make(rng) for _ in range(rows)])


def _bucket(
    rows: MazeRows, kind: str, share: float, rows_a_batch: int, length: int, steps: tuple = (1, 1)
) -> Bucket:
    makers = {
        "questions": lambda rng: rows.questions(rng, length, as_codes=False),
        "code_questions": lambda rng: rows.questions(rng, length, as_codes=rng.random() < 0.8),
        "captions": lambda rng: rows.caption(rng, length),
        "fine": lambda rng: rows.fine(rng, length, tuple(steps)),
        "coarse": lambda rng: rows.coarse(rng, length),
    }
    if kind not in makers:
        raise ValueError(f"data.buckets: kind is {kind!r}, expected one of {tuple(makers)}")
    return Bucket(share, rows_a_batch, makers[kind])


def _jsonl_batches(
    config: ConfigDict, model: LatentUMConfig, chat: ChatConfig, tokenizer: Tokenizer
) -> Callable[[int], Row]:
    data = config.data
    samples = InterleavedLines(data.path)
    shape = RowShape(data.length, data.images, data.targets, model.vision)

    def row(sample: dict) -> Row:
        try:
            return interleaved_row(
                sample,
                tokenizer,
                shape,
                system=chat.system,
                draw=lambda path: np.asarray(load_image(path)),
            )
        except ValueError as error:
            raise ValueError(f"{data.path}, sample {sample.get('id')!r}: {error}") from error

    for index in range(len(samples)):  # a sample that does not fit is found before the first step
        row(samples[index])
    pick = lambda rng: row(samples[int(rng.integers(len(samples)))])  # noqa: E731
    return lambda index: _picked(config.seed, index, data.rows, pick)
