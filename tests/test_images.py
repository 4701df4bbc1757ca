"""Pixels against the public code's preprocessing, and pictures of every kind, good and bad."""

from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from latentum_jax.images import (
    MAX_PIXELS,
    denormalise,
    load_image,
    preprocess,
    square,
    tile_grid,
    tiles,
)
from tests.internvl import image_processor, processing

GOLDEN = Path(__file__).parent / "golden/preprocess"
RED = (200, 30, 10)
SIDES = range(1, 13)


@pytest.mark.parametrize(
    "name, resample",
    [("load_image", "bicubic"), ("load_initial_image", "bilinear"), ("wm_first", "bilinear")],
)
def test_equals_the_public_code(name, resample):
    expected = np.load(GOLDEN / "out.npz")[name][0].transpose(1, 2, 0)
    pixels = preprocess(GOLDEN / "img.png", 112, resample=resample)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_path_image_and_array_are_the_same():
    path = GOLDEN / "img.png"
    expected = preprocess(str(path), 28)
    opened = Image.open(path)
    np.testing.assert_array_equal(preprocess(opened, 28), expected)
    np.testing.assert_array_equal(preprocess(np.asarray(opened), 28), expected)


def test_denormalise_inverts_preprocess():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
    np.testing.assert_array_equal(denormalise(preprocess(levels, 16)), levels)


def test_denormalise_clips():
    pixels = np.array([[-100.0] * 3, [100.0] * 3], np.float32)
    np.testing.assert_array_equal(denormalise(pixels), [[0] * 3, [255] * 3])


def test_a_canvas_keeps_the_scale():
    """Breaks if a small picture is stretched, or a large one cut off."""
    cells = np.zeros((128, 192, 3), np.uint8)
    cells[64:, 128:] = RED  # the third cell of the second row, 64 pixels each
    seen = square(cells, 24, canvas=384)  # 4 pixels a cell
    expected = np.zeros((24, 24, 3), np.uint8)
    expected[4:8, 8:12] = RED
    inner = np.s_[5:7, 9:11]  # the filter blends the borders
    np.testing.assert_array_equal(seen[inner], expected[inner])
    np.testing.assert_array_equal(seen[8:], 0)
    np.testing.assert_array_equal(seen[:, 12:], 0)
    # A picture of the canvas's size, and a square larger one, fill it as without a canvas.
    full = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    for canvas in (48, 32):
        np.testing.assert_array_equal(square(full, 24, canvas=canvas), square(full, 24))


def test_a_canvas_of_no_size():
    """Breaks if a canvas of 0 pixels passes for none."""
    with pytest.raises(ValueError, match="canvas is 0, expected at least 1 pixel"):
        square(np.zeros((4, 4, 3), np.uint8), 24, canvas=0)


@pytest.mark.parametrize("size", [2, 30, 201])
@pytest.mark.parametrize("canvas", [None, 384])
def test_a_picture_is_written_where_it_is_wanted(size, canvas):
    """Of one strip, of several, of a whole number of them or not. Breaks if Pillow's encoder, which
    is its own affair, is used in another way than it does itself."""
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    there = np.full((3, size, size, 3), 7, np.uint8)
    for given in (picture, Image.fromarray(picture), GOLDEN / "img.png"):
        seen = square(given, size, canvas=canvas, out=there[1])
        assert np.shares_memory(seen, there)
        np.testing.assert_array_equal(there[1], square(given, size, canvas=canvas))
        assert (there[::2] == 7).all()


@pytest.mark.parametrize("max_tiles", [1, 2, 6, 12, 13])
def test_grid_of_tiles_is_that_of_transformers(max_tiles):
    """Breaks if columns and rows change places or a tie goes the other way: 1,600 shapes, among
    them all whole proportions, where ties are, below and above half of a grid's pixels."""
    rng = np.random.default_rng(0)
    shapes = [(i * step, j * step) for step in (80, 280, 500) for i in SIDES for j in SIDES]
    shapes += [tuple(int(2 ** rng.uniform(1, 13)) for _ in range(2)) for _ in range(1168)]
    for width, height in shapes:
        expected = processing.get_optimal_tiled_canvas((height, width), (448, 448), 1, max_tiles)
        assert tile_grid((width, height), 448, max_tiles) == expected, (width, height)


def test_grid_of_tiles_by_hand():
    """Breaks if a small picture is blown up to many tiles, or a large one is not cut."""
    assert tile_grid((448, 448), 448, 12) == (1, 1)
    assert tile_grid((1344, 448), 448, 12) == (3, 1)
    assert tile_grid((448, 1344), 448, 2) == (1, 2)
    # 1000 x 500 fits 2x1, 4x2 and so on alike: 0.5 Mpx is more than half of 2x1 (0.2), not of 4x2
    # (0.8). 2000 x 1000, 2 Mpx, is more than half of 4x2 too.
    assert tile_grid((1000, 500), 448, 12) == (2, 1)
    assert tile_grid((2000, 1000), 448, 12) == (4, 2)


def test_tiles_are_cut_row_by_row():
    """Breaks if tiles come column by column, the thumbnail is lost or comes first."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (2 * 28, 3 * 28, 3), np.uint8)  # no resize is needed
    cut = tiles(picture, 28)
    assert cut.shape == (7, 28, 28, 3) and cut.dtype == np.uint8
    for n in range(6):
        row, column = divmod(n, 3)
        part = picture[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
        np.testing.assert_array_equal(cut[n], part)
    np.testing.assert_array_equal(cut[6], square(picture, 28, resample="bicubic"))
    np.testing.assert_array_equal(tiles(picture, 28, thumbnail=False), cut[:6])
    one = tiles(picture, 28, max_tiles=1)
    np.testing.assert_array_equal(one, cut[6:])


def test_tiles_are_those_of_transformers():
    """Breaks if the squeeze to the grid is another: pixels to the level."""
    theirs = image_processor(56, do_rescale=False, do_normalize=False)
    picture = load_image(GOLDEN / "img.png")
    for shape in ((150, 90), (40, 90), (90, 90)):
        part = picture.crop((0, 0, *shape))
        expected = theirs(part, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(tiles(part, 56), expected)


def test_no_tiles():
    """Breaks if 0 tiles give an empty picture."""
    with pytest.raises(ValueError, match="0 tiles of 28 pixels, expected at least 1 of both"):
        tiles(np.zeros((4, 4, 3), np.uint8), 28, max_tiles=0)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("RGB", RED, RED),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("LA", (60, 0), (255, 255, 255)),
        ("L", 60, (60, 60, 60)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 60 * 257, (60, 60, 60)),
        ("I", 60 * 257, (60, 60, 60)),
    ],
)
def test_modes(mode, colour, expected):
    image = load_image(Image.new(mode, (4, 3), colour))
    assert (image.mode, image.size) == ("RGB", (4, 3))
    assert image.getpixel((2, 1)) == expected


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "p.png", transparency=1)
    loaded = load_image(tmp_path / "p.png")
    assert loaded.getpixel((0, 0)) == RED
    assert loaded.getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_png(tmp_path):
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png").getpixel((0, 0)) == (255, 255, 255)


def test_bytes_of_a_file(tmp_path):
    """Pictures in tar shards are read like files, and errors do not print what is in them."""
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 4), RED).save(path)
    loaded = load_image(path.read_bytes())
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(load_image(path)))
    with pytest.raises(ValueError, match="^image: not an image in a format that Pillow reads$"):
        load_image(b"text")


def test_missing_folder_and_text(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name, reason in [
        ("none.png", "No such file"),
        ("n" * 300, "name too long"),
        (".", "Is a directory"),
        ("text.png", "not an image"),
        ("empty.png", "not an image"),
    ]:
        with pytest.raises(ValueError, match=reason) as error:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tiff", "mpo"])
def test_first_frame_of_an_animation(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(denormalise(preprocess(tmp_path / f"a.{kind}", 4)), 255)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_truncated(tmp_path, kind, kept):
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    Image.open(GOLDEN / "img.png").save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match="cut.*(not an image|damaged|cannot be read)"):
        load_image(cut)


def test_huge_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    image = Image.new("1", (1000, MAX_PIXELS // 1000 + 1))
    image.save(tmp_path / "huge.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="huge.png: 1000x64001 pixels, expected at most 64"):
        load_image(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit, which comes first
    with pytest.raises(ValueError, match="huge.png: too large"):
        load_image(tmp_path / "huge.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_arrays_of_another_shape_or_dtype(array):
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        load_image(array)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (1, 4, 3), (4, 1, 3)])
def test_sides_too_short(shape):
    with pytest.raises(ValueError, match="at least 2 a side"):
        load_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_modes_without_a_meaning(mode):
    with pytest.raises(ValueError, match=f"mode {mode}"):
        load_image(Image.new(mode, (4, 4)))


def test_32_bit_values():
    with pytest.raises(ValueError, match="from 70000 to 70000, expected 0 to 65535"):
        load_image(Image.new("I", (4, 4), 70000))


def test_bad_size():
    with pytest.raises(ValueError, match="size is 0"):
        preprocess(np.zeros((4, 4, 3), np.uint8), 0)


def test_annotations_are_checked():
    """The import hook of conftest.py is at work."""
    with pytest.raises(jaxtyping.TypeCheckError):
        preprocess(np.zeros((4, 4, 3), np.uint8), "28")
