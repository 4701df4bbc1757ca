"""Parts about mazes: what they count, with models whose plans are known; and the whole, slowly."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from latentum_jax.cli import main
from latentum_jax.data.frozenlake.frames import start_state
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.eval import vsp
from latentum_jax.eval.frames import decode_frames
from latentum_jax.generate.ablations import interleave_kept
from latentum_jax.generate.prompt import embed_images
from latentum_jax.miniature import mazes
from latentum_jax.miniature.part import Given, Sizes
from latentum_jax.miniature.spread import spread
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from tests.fake_model import FakeModel
from tests.models_on_disk import random_model
from tests.small import DECODER

SIZES = Sizes(levels=(3, 4), mazes=3)


@dataclasses.dataclass(frozen=True)
class Known(Given):
    """With a model that is there already."""

    there: LatentUM | None = None

    @functools.cached_property
    def model(self) -> LatentUM:
        return self.there


def test_ways_are_compared_on_the_same_mazes(tmp_path):
    """Breaks if a way plans by another's program, its share or its imagination is another's, or the
    plans that compile are counted. This model knows the mazes; kept, it imagines them too late."""
    known = vsp.held_out(SIZES.levels, SIZES.mazes, 5)

    class Model(FakeModel):
        def plan(self, images, *, by=None, **options):
            self.late = by is interleave_kept
            return super().plan(images, **options)

    model = Model([start_state(maze) for maze in known])
    found = mazes.recached_and_kept(Known("fake", SIZES, tmp_path, model), 5)
    assert [found[way]["imagined"] for way in ("recached", "kept")] == [1.0, 0.0]
    all_solved = {"3": 1.0, "4": 1.0, "mean": 1.0}
    assert found["kept"]["success"] == found["recached"]["success"] == all_solved
    plans = [(mode, size) for mode, size, _ in model.calls if mode == "fine"]
    assert plans == [("fine", 6)] * 4  # one batch, twice for each way
    assert {options["max_steps"] for mode, _, options in model.calls if mode == "fine"} == {9}


def test_fine_and_coarse(tmp_path):
    """Breaks if both are planned in one mode, or another seed has the same mazes."""
    known = [maze for seed in (1, 2) for maze in vsp.held_out(SIZES.levels, SIZES.mazes, seed)]
    model = FakeModel([start_state(maze) for maze in known])
    found = mazes.fine_and_coarse(Known("fake", SIZES, tmp_path, model), 1)
    assert found["fine"]["success"] == found["coarse"]["success"]
    assert {mode for mode, _, _ in model.calls} == {"fine", "coarse"}
    assert vsp.held_out((4,), 3, 1) != vsp.held_out((4,), 3, 2)


def test_what_was_drawn_is_seen(monkeypatch):
    """Breaks if a row sees another's picture, or one laid as another was: two are seen at once."""
    monkeypatch.setattr(mazes, "SEEN_AT_ONCE", 2)
    model = LatentUM(random_model())
    decoder = PixelDecoder(DECODER, init_decoder_params(DECODER, jax.random.key(0)))
    shape = (3, model.config.vision.num_tokens, model.config.quantizer.num_codebooks)
    codes = np.random.default_rng(0).integers(0, 8, shape).astype(np.int32)
    sizes = [(192, 192), (384, 384), (256, 256), (192, 192)]
    seen = mazes.sight(model, decoder, sizes)(codes, np.array([3, 0, 1]))
    for row in (0, 2):  # each the first of its batch, on whose place the decoder's seed depends
        (picture, _) = decode_frames(model, decoder, codes[[row, row]], [sizes[(3, 0, 1)[row]]] * 2)
        pixels = model.pixels([picture], "bilinear")
        expected = embed_images(model.model, model.params, pixels, False)[0]
        np.testing.assert_allclose(seen[row], expected, atol=1e-4)


def test_what_is_told():
    """Breaks if a gain is turned round, level 3 counts among the larger mazes, or a table has
    another way's numbers: 0.8 against 0.5 at level 4 are 30 points."""
    seeds = [
        {
            "fine": {"success": {"3": 0.0, "4": 0.8 + x, "mean": 0.4}},
            "coarse": {"success": {"3": 1.0, "4": 0.5 + x, "mean": 0.75}},
        }
        for x in (0.0, 0.1)
    ]
    section = mazes.tell_fine_and_coarse(seeds, spread(seeds))
    told = "As the paper says, planning move by move beats planning at once (levels 4): +30.0"
    assert told in section.text
    assert "| fine | 0.0 ± 0.0 | 85.0 ± 7.1 | 40.0 ± 0.0 |" in section.text
    assert list(section.charts) == [""] and "Mazes solved" in section.charts[""]
    one = {"success": {"3": 1.0, "mean": 1.0}, "imagined": 1.0, "seconds": 0.1}
    less = {"success": {"3": 0.5, "mean": 0.5}, "imagined": 1.0, "seconds": 0.3}
    for tell, better, worse in (
        (mazes.tell_latent_and_pixels, "latent", "pixels"),
        (mazes.tell_recached_and_kept, "recached", "kept"),
    ):
        seeds = [{better: less, worse: one}] * 2
        text = tell(seeds, spread(seeds)).text
        assert text.count("**This contradicts the paper**") == 1 + (better == "latent")
        assert f"| {worse} | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 | 0.100 ± 0.000 |" in text
        assert "here there is no difference" in text


@pytest.mark.slow
def test_the_bundled_model(tmp_path):
    """The three parts end to end, on one maze."""
    parts = "fine_coarse,pixels,recache"
    few = ["--seeds", "0", "--mazes", "1", "--levels", "3", "--parts", parts]
    assert main(["miniature", "--out", str(tmp_path), *few]) == 0
    for part in parts.split(","):
        results = json.loads((tmp_path / part / "results.json").read_text())
        assert all(0 <= way["success"]["3"] <= 1 for way in results["seeds"]["0"].values())
        assert f"](miniature/{part}.svg)" in (tmp_path / "miniature.md").read_text()
    pixels = results_of(tmp_path / "pixels")
    assert pixels["latent"]["success"] == results_of(tmp_path / "recache")["recached"]["success"]
    assert pixels["pixels"]["seconds"] > pixels["latent"]["seconds"] > 0


def results_of(folder):
    return json.loads((folder / "results.json").read_text())["seeds"]["0"]
