"""Pixels: any picture to RGB, RGB to the vision encoder's input, and back.

Both public paths squeeze the picture to a square, without cropping: image question answering with
PIL's bicubic filter, the planner, the world model and training with PIL's bilinear one. A model may
lay pictures on a canvas instead, so that what is drawn at one scale is seen at one scale, and
InternVL, which all this began as, cuts a picture into tiles.
"""

from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from latentum_jax.config import VisionConfig

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 64_000_000
MIN_SIDE = 2
STRIP = 1 << 16  # bytes

ImageLike = str | Path | bytes | Image.Image | np.ndarray


def load_image(image: ImageLike) -> Image.Image:
    """Returns a picture as 8-bit RGB, whatever it was.

    Transparent pixels are laid on white, 16-bit grey is scaled to 8 bits, of an animation the
    first frame is taken. EXIF rotation is not applied, as in the public code.

    Args:
      image: a file or the bytes of one, a PIL image, or a uint8 array [H, W, 3].

    Raises:
      ValueError: the file is missing, damaged or not a picture; the picture has more than 64
        megapixels (seen before it is decoded) or a side shorter than 2 pixels; the array is of
        another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _decode(image, "image")
    in_memory = isinstance(image, bytes)
    name, file = ("image", BytesIO(image)) if in_memory else (f"image {image}", image)
    try:
        with Image.open(file) as opened:
            return _decode(opened, name)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too large, expected at most 64 megapixels") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image in a format that Pillow reads") from error
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error})") from error


def square(
    image: ImageLike,
    size: int,
    *,
    canvas: int | None = None,
    resample: Literal["bilinear", "bicubic"] = "bilinear",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Brings a picture to a square, as uint8 [size, size, 3].

    Args:
      image: whatever `load_image` takes; an array that is such a square already is returned itself.
      size: side of the square in pixels.
      canvas: None squeezes the picture until it fills the square. A number lays it, its proportions
        kept, into the top left corner of a black square of so many pixels a side, which is then
        shrunk to `size`; a picture larger than that is shrunk to fit.
      resample: PIL's filter, which averages when it shrinks: "bicubic" to answer questions,
        "bilinear" for everything else (the public code differs in this).
      out: uint8 [size, size, 3], one behind the other in memory, to be written and returned.

    Raises:
      ValueError: as `load_image`, or `size` or `canvas` is below 1, or `resample` is neither.
    """
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if resample not in filters:
        raise ValueError(f"resample is {resample!r}, expected 'bilinear' or 'bicubic'")
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1 pixel")
    if canvas is not None and canvas < 1:
        raise ValueError(f"canvas is {canvas}, expected at least 1 pixel, or None")
    if canvas is None and _is_square(image, size):
        if out is None:
            return image
        out[:] = image
        return out
    loaded = load_image(image)
    if canvas is None:
        return _pixels(_resized(loaded, (size, size), filters[resample]), out)
    laid = Image.new("RGB", (size, size))
    laid.paste(_resized(loaded, _laid(loaded.size, size, canvas), filters[resample]))
    return _pixels(laid, out)


def _pixels(image: Image.Image, out: np.ndarray | None) -> np.ndarray:
    """An array of an RGB image, uint8 [H, W, 3]: `out`, where it is given.

    Pillow holds 4 bytes a pixel, and an array made of it is written twice. Where there is a place
    for it, strips go there while they are in the processor's cache.
    """
    if out is None:
        return np.asarray(image)
    encoder = Image._getencoder(image.mode, "raw", (image.mode, 0, 1))  # as in Image.tobytes
    encoder.setimage(image.im, (0, 0, *image.size))
    there, begin, done = memoryview(out).cast("B"), 0, 0
    while not done:
        _, done, strip = encoder.encode(STRIP)
        if done < 0:
            raise RuntimeError(f"Pillow's encoder of raw pixels ended with error {done}")
        there[begin : begin + len(strip)] = strip
        begin += len(strip)
    return out


def _is_square(image: ImageLike, size: int) -> bool:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.shape == (size, size, 3)
        and size >= MIN_SIDE
    )


def unlaid(picture: np.ndarray, shape: tuple[int, int], vision: VisionConfig) -> np.ndarray:
    """What `square` made of a picture of (width, height) pixels, brought back to them.

    `picture` is uint8 [size, size, 3], of any size; the result is uint8 [height, width, 3].
    """
    size, whole = len(picture), Image.fromarray(picture)
    box = (size, size) if vision.canvas is None else _laid(shape, size, vision.canvas)
    part = whole.crop((0, 0, *box))
    return np.asarray(part.resize(shape, Image.Resampling.BILINEAR))


def _resized(image: Image.Image, size: tuple[int, int], filter: Image.Resampling) -> Image.Image:
    # Pillow copies a picture that has the size already.
    return image if image.size == size else image.resize(size, filter)


def _laid(shape: tuple[int, int], size: int, canvas: int) -> tuple[int, int]:
    """Width and height that a picture of `shape` gets on a canvas shrunk to `size`."""
    scale = size / max(canvas, *shape)
    width, height = (max(1, round(side * scale)) for side in shape)
    return width, height


def see(
    image: ImageLike,
    vision: VisionConfig,
    *,
    resample: Literal["bilinear", "bicubic"] = "bilinear",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`square` as a model's vision encoder wants it, before `normalise`: uint8 [P, P, 3]."""
    return square(image, vision.image_size, canvas=vision.canvas, resample=resample, out=out)


def tiles(
    image: ImageLike, size: int, *, max_tiles: int = 12, thumbnail: bool = True
) -> np.ndarray:
    """Cuts a picture into squares as InternVL does, as uint8 [n, size, size, 3].

    The picture is squeezed, bicubically, to the grid of `tile_grid` and cut row by row. Where that
    makes more than one tile, the whole picture in one square follows, unless `thumbnail` is False.

    Raises:
      ValueError: as `square`, or `max_tiles` is below 1.
    """
    if size < 1 or max_tiles < 1:
        raise ValueError(f"{max_tiles} tiles of {size} pixels, expected at least 1 of both")
    loaded = load_image(image)
    columns, rows = tile_grid(loaded.size, size, max_tiles)
    grid = loaded.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    cut = np.asarray(grid).reshape(rows, size, columns, size, 3).transpose(0, 2, 1, 3, 4)
    cut = cut.reshape(rows * columns, size, size, 3)
    if not thumbnail or len(cut) == 1:
        return cut
    return np.concatenate([cut, square(loaded, size, resample="bicubic")[None]])


def tile_grid(shape: tuple[int, int], size: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the tiles for a picture of (width, height) pixels, at most `max_tiles`.

    InternVL's rule: the grid whose proportions are nearest to the picture's, the smaller of two as
    near, unless the picture has more than half the larger one's pixels.
    """
    width, height = shape
    sides = range(1, max_tiles + 1)
    grids = [(i, j) for i in sides for j in sides if i * j <= max_tiles]
    best, nearest = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        off = abs(width / height - columns / rows)
        roomy = width * height > 0.5 * size * size * columns * rows
        if off < nearest or (off == nearest and roomy):
            best, nearest = (columns, rows), off
    return best


def normalise(pixels: Any) -> Any:
    """uint8 [..., 3] (numpy or jax) as float32 of zero mean and unit variance over ImageNet."""
    return (pixels / np.float32(255) - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)


def preprocess(
    image: ImageLike, size: int, *, resample: Literal["bilinear", "bicubic"] = "bilinear"
) -> np.ndarray:
    """`square` then `normalise`: the vision encoder's input, float32 [size, size, 3]."""
    return normalise(square(image, size, resample=resample))


def denormalise(pixels: np.ndarray) -> np.ndarray:
    """Returns what `preprocess` normalised as uint8, rounded and clipped; both [..., 3]."""
    unit = np.asarray(pixels, np.float32) * np.float32(IMAGE_STD) + np.float32(IMAGE_MEAN)
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        shape = list(array.shape)
        raise ValueError(f"image array: {array.dtype} {shape}, expected uint8 [H, W, 3]")
    _check_size((array.shape[1], array.shape[0]), "image array")
    return Image.fromarray(array)


def _decode(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever the damage led them to
        raise ValueError(f"{name}: damaged or cut short ({error})") from error
    return _to_rgb(image, name)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width}x{height} pixels, expected at most 64 megapixels")
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name}: {width}x{height} pixels, expected at least {MIN_SIDE} a side")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image), name)
    if image.mode in ("F", "LAB", "La"):
        raise ValueError(f"{name}: pixels of mode {image.mode}, expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_16_bit(grey: np.ndarray, name: str) -> Image.Image:
    # Pillow opens 16-bit grey as "I;16" or, in 32 bits, as "I", depending on the format.
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"{name}: values from {grey.min()} to {grey.max()}, expected 0 to 65535")
    return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
