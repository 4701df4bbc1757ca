"""The imagined walk of the demo's page: what is true, what was imagined, and how it is shown."""

import dataclasses

import numpy as np

from latentum_jax.data.frozenlake.frames import start_state
from latentum_jax.data.frozenlake.mazes import sample_maze
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.eval import report
from latentum_jax.eval.recon import held_out_walks
from latentum_jax.eval.strip import imagine_walk
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from tests.small_world import small_drawer, small_world


def test_a_walk_is_imagined_and_shown(tmp_path):
    """Breaks if imagined frames stand beside others' true ones, or the page leaves them out."""
    model, drawer = LatentUM(small_world()), small_drawer()
    drawer = PixelDecoder(drawer.config, drawer.params)
    strip = imagine_walk(model, drawer, seed=3, steps=2)
    ((frames, _),) = held_out_walks(1, 3, 2)
    np.testing.assert_array_equal(strip.true, frames[CONTEXT:])
    np.testing.assert_array_equal(strip.seen, frames[CONTEXT - 1])
    assert strip.imagined.shape == (2, 32, 32, 3) and len(strip.actions) == 2
    state = start_state(sample_maze(np.random.default_rng(0), 3))
    shown = report.Shown((), state, (), state, "", strip=strip)
    text = report.write_page(shown, tmp_path, tmp_path / "none").read_text()
    assert text.count("<figcaption><b>Step") == 2
    assert (tmp_path / "frames/walk.gif").is_file()
    alone = report.page(dataclasses.replace(shown, strip=None), {})
    assert "Imagining a walk" in text and "Imagining a walk" not in alone
