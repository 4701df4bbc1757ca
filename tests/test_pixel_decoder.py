"""The decoder as a user has it: a folder in, pictures out."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from latentum_jax import pixel_decoder
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from tests.decoders import run_decoder
from tests.published import GOLDEN, outputs


@pytest.fixture(scope="module")
def decoder():
    return PixelDecoder.from_pretrained(GOLDEN / "decoder_tiny")


@pytest.fixture(scope="module")
def ref_decoder():
    return PixelDecoder.from_pretrained(GOLDEN / "ref_decoder_tiny")


@pytest.fixture
def folder(tmp_path):
    """A copy that a test may break, with SD3.5 beside it."""
    for name in ("decoder_tiny", "sd35_tiny"):
        shutil.copytree(GOLDEN / name, tmp_path / name, copy_function=shutil.copyfile)
    return tmp_path / "decoder_tiny"


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


Z_Q = outputs("decoder/sample")["context"]


def test_a_row_is_the_same_alone_and_among_others(decoder):
    """Breaks if a picture depends on its neighbours, or on anything but its seed."""
    both = decoder.decode(Z_Q, steps=2, seeds=[5, 6])
    alone = decoder.decode(Z_Q[1:], steps=2, seeds=[6])
    assert both.shape == (2, 112, 112, 3) and both.dtype == np.uint8
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(both[0].astype(int) - decoder.decode(Z_Q[:1], steps=2, seeds=[6])[0]).max() > 8


def test_guidance_and_size(decoder):
    """Breaks if guidance is dropped on the way, or another size than the square is refused."""
    plain = decoder.decode(Z_Q[:1], steps=2)
    guided = decoder.decode(Z_Q[:1], steps=2, guidance=2.5)
    assert np.abs(plain.astype(int) - guided).max() > 8
    assert decoder.decode(Z_Q[:1], steps=2, size=(64, 96)).shape == (1, 64, 96, 3)


def test_frames_are_encoded_as_published(ref_decoder):
    """Breaks if frames, a row's noise for them, or their channels come in another order."""
    o = outputs("ref_decoder/sample")
    frames = np.round(o["ref_images"].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    seeds, shape = jnp.array([3, 9], jnp.uint32), (14, 14, 16)
    seen = ref_decoder._frames(list(frames), (112, 112))
    ours = pixel_decoder._encode(ref_decoder.model, ref_decoder.params, seen, seeds, shape)
    eps = pixel_decoder._noise(seeds, 1, (4, *shape))
    for row in range(2):
        for frame in range(4):
            z = run_decoder(
                "ref_decoder_tiny", "encode", seen[frame : frame + 1], eps[row, frame : frame + 1]
            )
            part = ours[row, :, :, 16 * frame : 16 * (frame + 1)]
            np.testing.assert_allclose(part, z[0], rtol=1e-4, atol=1e-4)
    assert ref_decoder.decode(Z_Q, references=list(frames), steps=2).shape == (2, 112, 112, 3)


def test_prompts_become_pictures(decoder):
    """Breaks if the codes of a picture do not reach the decoder as z_q."""
    model = LatentUM.from_pretrained(GOLDEN / "tiny")
    (picture,) = model.generate_images(["a red cube"], decoder, seeds=[4], steps=2)
    assert isinstance(picture, Image.Image) and picture.size == (112, 112)
    codes = model.generate(["a red cube"], seeds=[4])
    expected = decoder.decode(model.z_q(codes), steps=2, seeds=[4])[0]
    np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z_q": Z_Q[0]}, r"z_q is \[16, 32\], expected \[B, L, 32\]"),
        ({"z_q": Z_Q[..., :8]}, r"z_q is \[2, 16, 8\]"),
        ({"size": (100, 112)}, "size is 100 x 112, expected multiples of 16"),
        ({"size": (0, 112)}, "size is 0 x 112"),
        ({"seeds": [1]}, "1 seeds for 2 rows"),
        ({"steps": 0}, "0 sampling steps"),
        ({"references": [np.zeros((8, 8, 3), np.uint8)]}, "1 reference frames, .* takes 0"),
    ],
)
def test_what_does_not_fit_is_refused(decoder, given, message):
    """Breaks if a user sees a shape error of the compiler."""
    with pytest.raises(ValueError, match=message):
        decoder.decode(**({"z_q": Z_Q, "steps": 2} | given))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda f: edit_config(f, sd3_5_path="../nowhere"), "nowhere/vae: the folder of SD3.5"),
        (
            lambda f: edit_config(f, ref_mode="concat", num_ref_frames=4),
            "ref_mode is 'concat', the",
        ),
        (lambda f: edit_config(f, context_dim=256), "context_dim is 256, the weights have 32"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 99), "is damaged or cut short"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json lacks 'sd3_5_path'"),
        (lambda f: (f.parent / "sd35_tiny/vae/config.json").unlink(), "it has no config.json"),
    ],
)
def test_broken_folders_are_refused_in_one_sentence(folder, breaks, message):
    """Breaks if a decoder is loaded that its config does not describe."""
    breaks(folder)
    with pytest.raises(ValueError, match=message) as refused:
        PixelDecoder.from_pretrained(folder)
    assert "\n" not in str(refused.value)


def test_the_vae_may_lie_elsewhere(folder):
    """Breaks if a decoder can be used only where its config's path happens to lead."""
    (folder.parent / "sd35_tiny").rename(folder.parent / "moved")
    moved = PixelDecoder.from_pretrained(folder, sd3_5=folder.parent / "moved")
    assert moved.config == PixelDecoder.from_pretrained(GOLDEN / "decoder_tiny").config
