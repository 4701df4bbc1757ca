"""A config's data: which rows, in which shapes, made on the fly or from files."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ml_collections import ConfigDict

from latentum_jax.config import (
    AlignerConfig,
    ChatConfig,
    DecoderConfig,
    LatentUMConfig,
    VisionConfig,
)
from latentum_jax.data.buckets import Bucket, Make, batch_of
from latentum_jax.data.datasets import open_tfds
from latentum_jax.data.embeddings import Embeddings
from latentum_jax.data.faults import Faults, blaming
from latentum_jax.data.frozenlake.stream import MazePictures, MazeRows, Mazes
from latentum_jax.data.interleaved import (
    InterleavedLines,
    Row,
    RowShape,
    caption_row,
    interleaved_row,
    picture_row,
    stack,
)
from latentum_jax.data.loader import Batches
from latentum_jax.data.navigation.recon import Trajectories
from latentum_jax.data.navigation.samples import world_sample
from latentum_jax.data.navigation.stream import NavigationPictures, NavigationRows
from latentum_jax.data.pictures import Pictures
from latentum_jax.data.records import Records
from latentum_jax.data.streams import Streams
from latentum_jax.data.text_image import text_image_row
from latentum_jax.data.vqa import Conversations, conversation_row
from latentum_jax.data.webdataset import TarShards
from latentum_jax.images import load_image, square
from latentum_jax.tokenizer import Tokenizer

Here = Callable[[int], slice]  # of so many rows in a batch, those that this process makes
SOURCES = ("frozenlake", "navigation", "jsonl", "recon", "vqa", "webdataset", "tfds", "records")
PICTURE_SOURCES = (
    "frozenlake",
    "navigation",
    "recon",
    "images",
    "webdataset",
    "tfds",
    "records",
)


@runtime_checkable
class Feed(Protocol):
    """An endless iterator over batches that can be put back, as grain's are, and be closed."""

    def __next__(self) -> Row: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def every_row(rows: int) -> slice:
    """Of a process that is alone."""
    return slice(0, rows)


def open_feed(
    config: ConfigDict,
    model: LatentUMConfig,
    chat: ChatConfig,
    tokenizer: Tokenizer,
    faults: Faults,
    here: Here = every_row,
) -> Feed:
    """Batches of which the rows are made that are wanted `here`; what they hold follows from the
    config alone.

    Raises ValueError for an unknown source, or one that is missing, empty or damaged.
    """
    data = config.data
    if data.source in ("frozenlake", "navigation"):
        makers = _makers(data, tokenizer, model.vision, chat.system)
        buckets = [_bucket(makers, **bucket) for bucket in data.buckets]
        make = functools.partial(batch_of, buckets, config.seed)
        return _made_here(make, {bucket.rows for bucket in buckets}, here, data.workers)
    shape = RowShape(data.length, data.images, data.targets, model.vision)
    if data.embeddings and (data.source != "jsonl" or data.packed):
        raise ValueError(
            f"data.embeddings is {data.embeddings!r}, which rows of a jsonl alone have, not packed"
        )
    if data.source == "jsonl":
        source = InterleavedLines(data.path, cache=_cache(data))
        beside = Embeddings(data.embeddings) if data.embeddings else None
        make = lambda i: jsonl_row(source, i, tokenizer, shape, chat.system, beside)  # noqa: E731
    elif data.source == "recon":
        windows = source = Trajectories(data.path, size=data.images, stride=data.stride)
        make = lambda i: world_row(windows, i, tokenizer, shape, chat.system)  # noqa: E731
    elif data.source == "vqa":
        source = Conversations(data.path, data.root, cache=_cache(data))
        said = {"system": chat.system}
        make = lambda i: conversation_row(source[i], tokenizer, shape, **said)  # noqa: E731
    elif data.source == "records":
        source = Records(data.path, made_by=data.made_by or None)
        make = lambda i: record_row(source, i, tokenizer, shape)  # noqa: E731
    elif data.source in ("webdataset", "tfds"):
        source = open_texts(data)
        make = lambda i: text_image_row(source[i], tokenizer, shape)  # noqa: E731
    else:
        raise ValueError(f"data.source is {data.source!r}, expected one of {SOURCES}")
    return _streams(config, make, len(source), faults, here, shape if data.packed else None)


def open_pictures(
    config: ConfigDict,
    vision: VisionConfig,
    decoder: DecoderConfig,
    faults: Faults,
    here: Here = every_row,
) -> Feed:
    """The same for a decoder: rows of `picture_row`, made on the fly or of pictures on disk."""
    data, side, references = config.data, decoder.image_size, decoder.mmdit.references
    if data.source in ("frozenlake", "navigation"):
        row = _pictures(data, vision, side, references)
        make = functools.partial(_drawn, config.seed, data.rows, row)
        return _made_here(make, {data.rows}, here, data.workers)
    if data.source not in PICTURE_SOURCES:
        raise ValueError(f"data.source is {data.source!r}, expected one of {PICTURE_SOURCES}")
    if data.source == "records":
        records = Records(data.path, made_by=data.made_by or None)
        return _streams(config, lambda i: latent_row(records, i), len(records), faults, here)
    if data.source == "recon":
        windows = Trajectories(data.path, size=max(2, references + 1), stride=data.stride)
        make = lambda i: _last_picture(windows, i, vision, side, references)  # noqa: E731
        return _streams(config, make, len(windows), faults, here)
    if references:
        raise ValueError(f"data.source {data.source!r} has single pictures, references are asked")
    if data.source == "images":
        files = Pictures(data.path)
        make = lambda i: _picture(files[i], str(files[i]), vision, side)  # noqa: E731
        return _streams(config, make, len(files), faults, here)
    texts = open_texts(data)

    def make_of_text(index: int) -> Row:
        sample = texts[index]
        return _picture(sample.image, sample.where, vision, side)

    return _streams(config, make_of_text, len(texts), faults, here)


def open_texts(data: ConfigDict) -> Any:
    """Texts with pictures, by number."""
    if data.source == "tfds":
        return open_tfds(data.path, data.split, folder=data.root or None)
    return TarShards(data.path, cache=_cache(data))


def open_embeddings(
    config: ConfigDict, aligner: AlignerConfig, faults: Faults, here: Here = every_row
) -> Feed:
    """The same for an aligner: pairs of embeddings, {"text" [d_t], "image" [d_v]} a row."""
    if config.data.source != "embeddings":
        raise ValueError(f"data.source is {config.data.source!r}, expected 'embeddings'")
    widths = {"text": aligner.text_dim, "image": aligner.image_dim}
    pairs = Embeddings(config.data.path, widths=widths)
    return _streams(config, pairs.__getitem__, len(pairs), faults, here)


def steps_of(config: ConfigDict) -> int:
    """`steps`, or where that is 0 the steps of `epochs` passes over the embeddings."""
    if config.steps or not config.epochs or config.data.source != "embeddings":
        return config.steps
    return -(-config.epochs * len(Embeddings(config.data.path)) // config.data.rows)


def jsonl_row(
    source: InterleavedLines,
    index: int,
    tokenizer: Tokenizer,
    shape: RowShape,
    system: str,
    embeddings: Embeddings | None = None,
) -> Row:
    """`interleaved_row` of a sample, with its `text_embedding` and `image_embedding` where there
    are `embeddings`. Raises BadSample where it cannot be read, does not fit, or has none."""
    sample = source[index]
    with blaming(source.where(index)):
        draw = lambda path: np.asarray(load_image(path))  # noqa: E731
        row = interleaved_row(sample, tokenizer, shape, system=system, draw=draw)
        if embeddings is None:
            return row
        if "id" not in sample:
            raise ValueError("it has no id, expected one to find its embeddings by")
        pair = embeddings.of(str(sample["id"]))
        return row | {f"{side}_embedding": vector for side, vector in pair.items()}


def world_row(
    source: Trajectories, index: int, tokenizer: Tokenizer, shape: RowShape, system: str
) -> Row:
    """`interleaved_row` of a window: frames and actions, and the frame that follows (appendix D).

    Raises BadSample where the window or one of its frames cannot be read, or does not fit.
    """
    window = source[index]
    with blaming(window.where):
        sample = world_sample(window.frames, window.poses, window.where)
        draw = lambda path: np.asarray(load_image(path))  # noqa: E731
        return interleaved_row(sample, tokenizer, shape, system=system, draw=draw)


def record_row(source: Records, index: int, tokenizer: Tokenizer, shape: RowShape) -> Row:
    """`caption_row` of a text and codes that `latentum precompute` made.

    Raises BadSample where they do not fit.
    """
    row, where = source[index], f"{source.folder}, row {index}"
    with blaming(where):
        expect(row, ("text", "codes"))
        return caption_row(bytes(row["text"]).decode(), row["codes"], tokenizer, shape)


def latent_row(source: Records, index: int) -> Row:
    """A decoder's row that `latentum precompute` made. Raises BadSample where it lacks latents."""
    row = source[index]
    with blaming(f"{source.folder}, row {index}"):
        expect(row, ("codes", "mean", "log_variance"))
    return {name: row[name] for name in ("codes", "mean", "log_variance")}


def expect(row: Row, names: Sequence[str]) -> None:
    """ValueError where a row has not all of these."""
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"it has {sorted(row)}, expected {missing[0]}")


def some_rows(batch: Row, here: Here) -> Row:
    """Those that are wanted of a whole batch: mazes are cheap, and drawn one after another."""
    return {name: x[here(len(x))] for name, x in batch.items()}


def _made_here(make: Callable[[int], Row], sizes: set[int], here: Here, workers: int) -> Batches:
    """What is wanted `here` of batches of these sizes; workers are told it, they have no mesh."""
    parts = {size: here(size) for size in sizes}
    return Batches(lambda i: some_rows(make(i), parts.__getitem__), workers=workers)


def _picture(image: Any, where: object, vision: VisionConfig, side: int) -> Row:
    with blaming(where):
        return picture_row(image, vision, side)


def _last_picture(
    source: Trajectories, index: int, vision: VisionConfig, side: int, references: int
) -> Row:
    """The last frame of a window, and the frames before it where they are asked for."""
    window = source[index]
    with blaming(window.where):
        row = picture_row(window.frames[-1], vision, side)
        if references:
            before = [square(x, side, canvas=vision.canvas) for x in window.frames[:-1]]
            row |= {"references": np.stack(before)}
        return row


def _streams(
    config: ConfigDict,
    make: Callable[[int], Row],
    count: int,
    faults: Faults,
    here: Here,
    shape: RowShape | None = None,
) -> Streams:
    data = config.data
    return Streams(
        make,
        count,
        seed=config.seed,
        rows=data.rows,
        here=here(data.rows),
        faults=faults,
        shape=shape,
        threads=data.threads or os.cpu_count() or 1,
    )


def _cache(data: ConfigDict) -> Path | None:
    return Path(data.cache) if data.cache else None


def _mazes(data: ConfigDict) -> Mazes:
    return Mazes(tuple(data.levels), tuple(data.weights), data.harder)


def _drawn(seed: int, rows: int, make: Make, index: int) -> Row:
    rng = np.random.default_rng((seed, index))
    return stack([make(rng) for _ in range(rows)])


def _pictures(data: ConfigDict, vision: VisionConfig, side: int, references: int) -> Make:
    """What makes the rows of a decoder on the fly."""
    if data.source == "navigation":
        return NavigationPictures(vision, side, references, data.stride).row
    return MazePictures(vision, side, references, _mazes(data)).row


def _makers(
    data: ConfigDict, tokenizer: Tokenizer, vision: VisionConfig, system: str
) -> dict[str, Callable[..., Row]]:
    """What makes a row of each kind on the fly, of (rng, length, steps)."""
    if data.source == "navigation":
        rows = NavigationRows(tokenizer, vision, system, data.stride)
        own = {"world": lambda rng, length, steps: rows.world(rng, length, steps[1])}
    else:
        rows = MazeRows(tokenizer, vision, system, _mazes(data))
        own = {
            "fine": rows.fine,
            "coarse": lambda rng, length, steps: rows.coarse(rng, length),
        }
    return own | {
        "questions": lambda rng, length, steps: rows.questions(rng, length, as_codes=False),
        "code_questions": lambda rng, length, steps: rows.questions(
            rng, length, as_codes=rng.random() < 0.8
        ),
        "captions": lambda rng, length, steps: rows.caption(rng, length),
    }


def _bucket(
    makers: dict[str, Callable[..., Row]],
    kind: str,
    share: float,
    rows_a_batch: int,
    length: int,
    steps: tuple = (1, 1),
) -> Bucket:
    if kind not in makers:
        raise ValueError(f"data.buckets: kind is {kind!r}, expected one of {tuple(makers)}")
    return Bucket(share, rows_a_batch, lambda rng: makers[kind](rng, length, tuple(steps)))


def open_faults(config: ConfigDict, workdir: Path | None, process: int = 0) -> Faults:
    """The count of broken samples of a run, or of one process of it, kept in its folder."""
    name = "bad_samples.jsonl" if process == 0 else f"bad_samples-{process}.jsonl"
    return Faults(None if workdir is None else workdir / name, config.data.max_bad)
