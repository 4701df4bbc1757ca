"""Rows: what every stage trains on, tokens of U with their pictures and the places of the G blocks.

A row is the understanding sequence U of section 3.3: text, and for each picture `<img>`, L slots
and `</img>`. Target pictures have a G block besides, built on the device from `target_slot` and
`target_position`. Questions about one picture share a row: each is a block of its own that sees
the picture and itself (see `models.attention`), so that a picture is encoded once for all of them.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentum_jax.config import VisionConfig
from latentum_jax.data.faults import BadSample
from latentum_jax.data.lines import Lines
from latentum_jax.images import ImageLike, see, square
from latentum_jax.tokenizer import Tokenizer, user_turn

IGNORE = -100
Row = dict[str, np.ndarray]

# What a row has beside its pictures: for each of what (see `RowShape`), its dtype, and what stands
# where there is nothing; of tokens that is the tokenizer's pad.
WORDS = {
    "tokens": ("length", np.int32, 0),
    "labels": ("length", np.int32, IGNORE),
    "weights": ("length", np.float32, 0),
    "position": ("length", np.int32, 0),
    "block": ("length", np.int32, 0),
    "context": ("length", np.int32, 0),
    "base": ("length", np.int32, 0),
    "valid": ("length", bool, False),
    "image_index": ("length", np.int32, -1),
    "as_codes": ("images", bool, False),
    "target_slot": ("targets", np.int32, 0),
    "target_position": ("targets", np.int32, 0),
    "target_valid": ("targets", bool, False),
    "target_base": ("targets", np.int32, 0),
    "target_block": ("targets", np.int32, 0),
}


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Sizes of a row: T tokens, J pictures seen by `vision`, at most `targets` of them drawn.

    given: so many pictures come first as pixels, all others as codes; None where all of a row are
      of one kind.
    """

    length: int
    images: int
    targets: int
    vision: VisionConfig
    given: int | None = None
    codebooks: int = 0  # of those codes


class _Part(NamedTuple):
    """Tokens one behind the other: `first` is the position of the first of them, `index` its entry
    of `image_index` where they are the slots of a picture."""

    ids: Sequence[int]
    learn: bool
    block: int
    first: int
    index: int | None


class RowBuilder:
    """Collects tokens and pictures in reading order; `finish` pads them into a row."""

    def __init__(self, tokenizer: Tokenizer, shape: RowShape):
        self.ids, self.encode, self.shape = tokenizer.ids, tokenizer.encode, shape
        self.parts: list[_Part] = []
        self.length = 0
        self.pixels: list[np.ndarray] = []
        self.as_codes: list[bool] = []
        self.targets: list[tuple[int, int, int]] = []  # slot, place of its <img>, question
        self.block_now = 0
        self.prefix = 0  # length of block 0, from where every further block continues
        self.next_position = 0

    def text(self, text: str, *, learn: bool = False) -> "RowBuilder":
        """Adds the ids of text, as labels too where `learn`."""
        self._add(self.encode(text), learn=learn)
        return self

    def encoded(self, ids: Sequence[int], *, learn: bool = False) -> "RowBuilder":
        """Adds what was encoded before, as labels too where `learn`."""
        self._add(ids, learn=learn)
        return self

    def image(
        self, pixels: np.ndarray, *, as_codes: bool, target: bool = False, learn: bool = False
    ) -> "RowBuilder":
        """Adds `<img>` (a label where `learn`), L slots and `</img>`.

        `as_codes`: the slots show visual_projector(z_q), else mlp1's features. `target`: the
        picture is drawn by a G block that starts at its `<img>`, in U itself, no question.
        """
        slot = self._store(pixels, as_codes)
        if target:
            self.targets.append((slot, self.next_position, 0))
        self._add([self.ids.img], learn=learn)
        count = self.shape.vision.num_tokens
        self._add([self.ids.img_context] * count, index=slot * count)
        self._add([self.ids.img_end])
        return self

    def drawn(self, pixels: np.ndarray | None) -> "RowBuilder":
        """Adds a picture that ends the row, or a question: only its G block stands after it."""
        self.targets.append((self._store(pixels, True), self.next_position, self.block_now))
        return self

    def question(self) -> "RowBuilder":
        """Opens a block of its own behind the tokens of block 0."""
        if self.block_now == 0:
            self.prefix = self.next_position
        self.block_now += 1
        self.next_position = self.prefix
        return self

    def room(self) -> int:
        """Tokens that still fit."""
        return self.shape.length - self.length

    def finish(self, *, square_averaging: bool = False) -> Row:
        """The padded row, its labels of equal weight unless `square_averaging`.

        Raises ValueError where tokens, pictures or targets do not fit.
        """
        return self.without_pictures(square_averaging=square_averaging) | padded_pictures(
            self.pixels, self.shape
        )

    def without_pictures(self, *, square_averaging: bool = False) -> Row:
        """`finish`, its pictures to be added by `padded_pictures`."""
        row = {name: x[0] for name, x in words_of([self]).items()}
        if square_averaging:
            row["weights"] = square_averaged(row["labels"], row["block"])
        return row

    def checked(self) -> "RowBuilder":
        """Itself. Raises ValueError where tokens, pictures or targets do not fit."""
        s = self.shape
        for given, most, what in (
            (self.length, s.length, "tokens"),
            (len(self.pixels), s.images, "images"),
            (len(self.targets), s.targets, "target images"),
        ):
            if given > most:
                raise ValueError(f"a sample has {given} {what}, at most {most} fit")
        return self

    def _store(self, pixels: np.ndarray | None, as_codes: bool) -> int:
        self.pixels.append(pixels)
        self.as_codes.append(as_codes)
        return len(self.pixels) - 1

    def _add(self, ids: Sequence[int], *, learn: bool = False, index: int | None = None) -> None:
        self.parts.append(_Part(ids, learn, self.block_now, self.next_position, index))
        self.length += len(ids)
        self.next_position += len(ids)


def words_of(builders: Sequence[RowBuilder], there: Row | None = None) -> Row:
    """Rows of one shape without their pictures, stacked, which takes less than one at a time; they
    are written into the arrays of `there`, if it has them.

    Raises ValueError where one does not fit.
    """
    shape, out = builders[0].shape, {}
    for name, (axis, dtype, nothing) in WORDS.items():
        size = len(builders), getattr(shape, axis)
        out[name] = there[name] if there else np.empty(size, dtype)
        out[name].fill(builders[0].ids.pad if name == "tokens" else nothing)
    places = np.arange(shape.length, dtype=np.int32)
    for number, builder in enumerate(builders):
        _write(builder.checked(), {name: x[number] for name, x in out.items()}, places)
    return out


def _write(builder: RowBuilder, row: Row, places: np.ndarray) -> None:
    """What a row has, where it has nothing yet; `places` are 0, 1, ... to the row's length."""
    end = builder.length
    row["valid"][:end] = True
    row["position"][:end] = row["context"][:end] = places[:end]  # of a row of one block
    end = 0
    for part in builder.parts:
        here, own = slice(end, end := end + len(part.ids)), places[: len(part.ids)]
        row["tokens"][here] = part.ids
        if part.learn:
            row["labels"][here], row["weights"][here] = part.ids, 1
        if part.block:
            row["block"][here], row["context"][here] = part.block, builder.prefix - 1
            row["position"][here] = own + part.first
        if part.index is not None:
            row["image_index"][here] = own + part.index
    row["as_codes"][: len(builder.as_codes)] = builder.as_codes
    row["target_valid"][: len(builder.targets)] = True
    for number, target in enumerate(builder.targets):
        for name, value in zip(("slot", "position", "block"), target, strict=True):
            row[f"target_{name}"][number] = value


def square_averaged(labels: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Weight 1/sqrt(n) of every label, n being the labels of its block; 0 where there is none.

    InternVL's square averaging (arXiv 2412.05271): a mean over tokens would hardly teach a short
    answer that shares its row with a map of a maze, a mean over answers hardly the map.
    """
    learnt = labels >= 0
    lengths = np.bincount(block[learnt], minlength=block.max(initial=0) + 1)
    return learnt / np.sqrt(np.maximum(lengths[block], 1), dtype=np.float32)


def padded_pictures(given: Sequence[np.ndarray], shape: RowShape) -> Row:
    """Pictures and black ones behind them, `pixels` uint8 [J P P 3]; or, where they were encoded
    before, `codes` int32 [J L C]; with `shape.given` both."""
    side, count = shape.vision.image_size, shape.images
    if shape.given is not None:
        first = dataclasses.replace(shape, images=shape.given, given=None)
        seen, drawn = given[: shape.given], given[shape.given :]
        if not seen or any(p.ndim != 3 for p in seen) or any(p.ndim != 2 for p in drawn):
            raise ValueError(f"expected {shape.given} pictures as pixels, then codes alone")
        codes = np.zeros((count, shape.vision.num_tokens, shape.codebooks), np.int32)
        for place, picture in zip(codes[shape.given :], drawn, strict=False):
            place[:] = picture
        return {**padded_pictures(seen, first), "codes": codes}
    encoded = bool(given) and given[0].ndim == 2
    name, one = ("codes", given[0].shape) if encoded else ("pixels", (side, side, 3))
    if len(given) == count == 1 and not encoded:
        return {name: given[0][None]}  # not a copy: `stack` makes one
    out = np.zeros((count, *one), np.int32 if encoded else np.uint8)
    for place, picture in zip(out, given, strict=False):
        place[:] = picture
    return {name: out}


def picture_row(image: ImageLike, vision: VisionConfig, side: int) -> Row:
    """A picture as the ViT has it (`seen`) and as a decoder draws it (`pixels`), laid alike."""
    drawn = square(image, side, canvas=vision.canvas)
    return {"seen": see(image, vision), "pixels": drawn}


def stack(rows: Sequence[Row]) -> Row:
    """Rows into a batch: a leading axis B."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class Stack:
    """`stack` of rows that come one by one, in any order and from any thread, to their places."""

    def __init__(self, count: int, rows: Row | None = None):
        """`rows`: arrays of an earlier batch, which are written over."""
        self.count, self.rows = count, rows or {}
        self._lock = threading.Lock()

    def put(self, place: int | slice, row: Row, *, part: bool = False) -> None:
        """Copies a row, or a `part` of one, to its place; or several rows, stacked, to theirs.

        Raises ValueError where its names or shapes are not those of others.
        """
        with self._lock:
            if not part and self.rows and row.keys() != self.rows.keys():
                names = f"{sorted(row)} and of {sorted(self.rows)}"
                raise ValueError(f"rows of {names} do not make a batch")
            for name in row.keys() - self.rows.keys():
                one = row[name][0] if isinstance(place, slice) else row[name]
                self.rows[name] = np.empty((self.count, *one.shape), one.dtype)
        for name, value in row.items():
            there = self.rows[name][place]
            if np.may_share_memory(there, value):
                continue  # it was written there
            if there.shape != value.shape:
                shape, other = list(value.shape), list(there.shape)
                raise ValueError(f"rows whose {name} are {shape} and {other} do not make a batch")
            self.rows[name][place] = value

    def place(self, place: int | slice) -> Row:
        """Where a row goes, or several; nothing before another was put."""
        with self._lock:
            return {name: x[place] for name, x in self.rows.items()}


class Later(NamedTuple):
    """A row of whose words the tokens are made, while its picture is still to be seen.

    see: gives the picture, written into an array that it may be given for it.
    """

    builder: RowBuilder
    see: Callable[[np.ndarray | None], np.ndarray]

    def pictures(self, there: Row | None = None) -> Row:
        """That part of the row, whose only picture may have been written to its place in `there`
        already."""
        place = (there or {}).get("pixels", ())
        picture = self.see(place[0] if len(place) == 1 else None)
        return padded_pictures([picture], self.builder.shape)

    def __call__(self) -> Row:
        return self.builder.without_pictures() | self.pictures()


def interleaved_row(
    sample: dict[str, Any],
    tokenizer: Tokenizer,
    shape: RowShape,
    *,
    system: str,
    draw: Callable[[Any], np.ndarray],
) -> Row:
    """A user message and an assistant message of text and pictures as a row (section 3.3).

    The prompt's pictures are read as features, the assistant's are targets and shown as codes.
    Labels are the assistant's text, each `<img>` and the end token. `draw` turns an image entry's
    value into pixels uint8 [H, W, 3].
    """
    builder = RowBuilder(tokenizer, shape)
    user, assistant = sample["messages"]
    head, tail = user_turn("\0", system).split("\0")
    builder.text(head)
    for part in user["content"]:
        if part["type"] == "text":
            builder.text(part["text"])
        else:
            builder.image(see(draw(part["image"]), shape.vision), as_codes=False)
    builder.text(tail)
    for part in assistant["content"]:
        if part["type"] == "text":
            builder.text(part["text"], learn=True)
        else:
            pixels = see(draw(part["image"]), shape.vision)
            builder.image(pixels, as_codes=True, target=True, learn=True)
    return builder.text("<|im_end|>", learn=True).finish()


def question_row(
    pixels: np.ndarray | None,
    turns: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    shape: RowShape,
    *,
    system: str,
    as_codes: bool = False,
) -> Row:
    """One picture and as many of the (question, answer) pairs about it as fit, in their order.

    Without a picture the questions stand behind the system turn alone.
    """
    builder = RowBuilder(tokenizer, shape)
    head, tail = user_turn("\0", system).split("\0")
    builder.text(head)
    if pixels is not None:
        builder.image(pixels, as_codes=as_codes).text("\n")
    for question, answer in turns:
        asked, said = tokenizer.encode(question + tail), tokenizer.encode(answer + "<|im_end|>")
        if len(asked) + len(said) <= builder.room():
            builder.question().text(question + tail).text(answer + "<|im_end|>", learn=True)
    return builder.finish(square_averaging=True)


def caption_row(caption: str, picture: np.ndarray, tokenizer: Tokenizer, shape: RowShape) -> Row:
    """Raw caption text and the G block of its picture: text to image (section 3.2). `picture` is
    uint8 [P P 3], or what it was encoded to, int [L C]."""
    return caption_row_later(caption, lambda _: picture, tokenizer, shape)()


def caption_row_later(
    caption: str,
    see: Callable[[np.ndarray | None], np.ndarray],
    tokenizer: Tokenizer,
    shape: RowShape,
) -> Later:
    """`caption_row` in two steps: tokens now; `see` (see `Later`) when it is called.

    Raises ValueError where the caption does not fit.
    """
    return Later(RowBuilder(tokenizer, shape).text(caption).drawn(None).checked(), see)


class InterleavedLines:
    """Samples of a JSONL file in the published layout, image paths made relative to its folder.

    Raises ValueError as `Lines`, which reads the file; `cache` is handed on to it.
    """

    def __init__(self, path: str | os.PathLike[str], *, cache: Path | None = None):
        self.lines = Lines(path, cache=cache)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample, for `interleaved_row`.

        Raises BadSample naming the file and the line where it does not have the form
        `{"id", "messages": [user, assistant]}` with content lists of text and image entries.
        """
        return _sample(self.lines[index], self.where(index), self.lines.path.parent)

    def where(self, index: int) -> str:
        """The file and the number of the line."""
        return self.lines.where(index)


def _sample(sample: Any, where: str, folder: Path) -> dict[str, Any]:
    try:
        messages = sample["messages"]
        roles = [message["role"] for message in messages]
        parts = [part for message in messages for part in message["content"]]
        for part in parts:
            if part["type"] == "image":
                part["image"] = str(folder / part["image"])
            elif not isinstance(part["text"], str):
                raise TypeError("text is not a string")
    except (KeyError, TypeError) as error:
        raise BadSample(
            where, f"expected messages with role and content entries of text or image ({error})"
        ) from error
    if roles != ["user", "assistant"]:
        raise BadSample(where, f"expected one user and one assistant message, got {roles}")
    return sample
