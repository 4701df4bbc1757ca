"""A config's data: which rows, in which shapes, from mazes made on the fly or a JSONL file."""

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.data.frozenlake.stream import Bucket, MazeRows, Mazes, batch_of
from latentum_jax.data.interleaved import Row, RowShape, interleaved_row, read_jsonl, stack
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
    samples = list(read_jsonl(data.path))
    if not samples:
        raise ValueError(f"{data.path}: no samples")
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

    def make(index: int) -> Row:
        rng = np.random.default_rng((config.seed, index))
        return stack([row(samples[i]) for i in rng.integers(len(samples), size=data.rows)])

    for sample in samples:  # a sample that does not fit is found before the first step
        row(sample)
    return make
