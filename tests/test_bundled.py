"""The bundled checkpoints: they are there, they are small, and do what the README says."""

import json

import numpy as np
import pytest

from latentum_jax.data.frozenlake import questions
from latentum_jax.data.frozenlake.frames import draw, simulate, start_state
from latentum_jax.data.frozenlake.mazes import split_of, unique_mazes
from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.data.navigation.samples import CONTEXT
from latentum_jax.eval import frames
from latentum_jax.eval.recon import held_out_walks
from latentum_jax.eval.vsp import read_moves
from latentum_jax.generate.sampling import GREEDY, Sampling
from latentum_jax.models.folder import expected_shapes
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM, find_model
from latentum_jax.rollout import latent_features, rollout

NAME, WORLD = "frozenlake-tiny", "nav-tiny"
DRAWN = Sampling(temperature=0.5, top_k=32, top_p=0.95)


@pytest.fixture(scope="module")
def model():
    return LatentUM.from_pretrained(NAME)


@pytest.fixture(scope="module")
def mazes():
    return [m for level in (3, 4, 5, 6) for m in unique_mazes(11, level, 8, "test")]


def test_size_and_papers():
    """Breaks if the package grows past 12 MB or the checkpoint loses its recipe, log or figures."""
    folder = find_model(NAME)
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 12e6
    stages = [json.loads(line)["stage"] for line in (folder / "log.jsonl").open()]
    assert list(dict.fromkeys(stages)) == ["vlm", "mbaq", "mome", "sft"]
    assert "frozenlake_tiny" in (folder / "README.md").read_text()
    found = json.loads((folder / "metrics.json").read_text())
    assert (
        {"3", "4", "5", "6"} == set(found["vsp-fine"]["levels"]) == set(found["frames"]["levels"])
    )
    stages = [json.loads(line)["stage"] for line in (folder / "decoder/log.jsonl").open()]
    assert list(dict.fromkeys(stages)) == ["vae", "pixel_decoder"]
    assert "frozenlake_decoder" in (folder / "decoder/README.md").read_text()


def test_size_and_papers_of_the_world_model():
    """The same of the other one."""
    folder = find_model(WORLD)
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 12e6
    stages = [json.loads(line)["stage"] for line in (folder / "log.jsonl").open()]
    assert list(dict.fromkeys(stages)) == ["vlm", "mbaq", "mome", "sft", "world"]
    assert "nav_tiny" in (folder / "README.md").read_text()
    stages = [json.loads(line)["stage"] for line in (folder / "decoder/log.jsonl").open()]
    assert list(dict.fromkeys(stages)) == ["vae", "pixel_decoder"]
    assert "nav_tiny_decoder" in (folder / "decoder/README.md").read_text()
    found = json.loads((folder / "metrics.json").read_text())["recon"]
    assert found["episodes"] == 100
    assert all(by["mean"] > by["ci95"] for by in found["nearer_by"].values())


def test_imagined_frames_are_nearer_to_the_true_ones_than_what_was_seen_last():
    """Eight steps of eight held-out walks, in latents alone. Breaks if the weights, the words of
    actions or the recurrence are not those that the model learnt with: features of the last frame
    seen are 2.7 times as far off (24 walks), those of other walks' frames 3.7 times."""
    model, walks = LatentUM.from_pretrained(WORLD), list(held_out_walks(8, 3, 8))
    codes = np.stack([model.encode(list(seen))[1] for seen, _ in walks])
    seen = [list(frames[:CONTEXT]) for frames, _ in walks]
    actions = [actions_between(poses) for _, poses in walks]
    imagined, _ = rollout(model, seen, actions, sampling=GREEDY)
    true = latent_features(model, codes[:, CONTEXT:])
    error = lambda given: np.mean((latent_features(model, given) - true) ** 2)  # noqa: E731
    assert error(imagined) < 0.5 * error(codes[:, CONTEXT - 1 : CONTEXT])


def test_its_decoder_draws_what_comes():
    """Breaks if the decoder is another model's, or is given other references than it learnt with:
    frames of three walks were drawn with 24 to 25 dB."""
    model, decoder = LatentUM.from_pretrained(WORLD), PixelDecoder.from_pretrained(WORLD)
    ((seen, _),) = held_out_walks(1, 3, 8)
    z_q = model.z_q(model.encode(list(seen[CONTEXT:]))[1])
    drawn = decoder.decode(z_q, references=list(seen[:CONTEXT]), seeds=range(8), steps=8)
    assert frames.psnr(drawn, seen[CONTEXT:]) > 22


def test_every_parameter_is_there(model):
    """Breaks if the config beside the weights describes another model."""
    assert sum(np.prod(s) for s in expected_shapes(model.config).values()) < 6e6


@pytest.mark.slow
def test_32_mazes_in_one_call_are_what_each_gives_alone(model, mazes):
    """Breaks if a row's plan depends on its batch mates: 32 rows, each with its own seed."""
    assert all(split_of(maze) == "test" for maze in mazes)
    pictures = [draw(start_state(maze)) for maze in mazes]
    settings = {"max_steps": 6, "text": DRAWN, "codes": DRAWN}
    seeds = list(range(100, 132))
    together = model.plan(pictures, seeds=seeds, **settings)
    for picture, seed, plan in zip(pictures, seeds, together, strict=True):
        (alone,) = model.plan([picture], seeds=[seed], **settings)
        assert alone.text == plan.text
        np.testing.assert_array_equal(alone.codes, plan.codes)


def test_it_solves_mazes_it_never_saw(model, mazes):
    """Breaks if the checkpoint and the code drift apart.

    It solves 97.2% of 400 held-out mazes (metrics.json); of 32, 0.9 is more than three missed.
    """
    plans = model.plan([draw(start_state(maze)) for maze in mazes], max_steps=12)
    solved = [
        simulate(maze, read_moves(plan, "fine")) for maze, plan in zip(mazes, plans, strict=True)
    ]
    assert np.mean(solved) >= 0.9


def test_bfloat16_reads_as_fp32_does(model, mazes):
    """Breaks if the quantizer runs in bfloat16: four of five codes would be others."""
    rounded = LatentUM.from_pretrained(NAME, dtype="bfloat16")
    pictures = [draw(start_state(maze)) for maze in mazes]
    assert rounded.params["quantizer"]["codebook"].dtype == np.float32
    assert np.mean(rounded.encode(pictures)[1] == model.encode(pictures)[1]) > 0.7
    question = "Where is the player?"
    both = zip(model.answer(pictures, question), rounded.answer(pictures, question), strict=True)
    assert sum(ours == theirs for ours, theirs in both) >= 30


def test_it_reads_pictures_and_its_own_codes(model, mazes):
    """Breaks if any of the three ways into the understanding branch is wired wrongly."""
    states = [start_state(maze) for maze in mazes]
    pictures = [draw(state) for state in states]
    asked = questions.ask("goal", states[0], np.random.default_rng(0)).question
    truth = [questions.ask("goal", s, np.random.default_rng(0)).answer for s in states]
    codes = model.encode(pictures)[1]
    for told in (
        model.answer(pictures, asked, max_new_tokens=16),
        model.answer(pictures, asked, features="quantized", max_new_tokens=16),
        model.describe(codes, asked, max_new_tokens=16),
    ):
        assert np.mean([a == b for a, b in zip(told, truth, strict=True)]) >= 0.9


def test_it_draws_what_it_imagines(model, tmp_path):
    """Breaks if the bundled decoder is another model's, or its pictures cannot be read any more:
    95% of their cells, and those of nothing but ice would be fewer."""
    found = frames.evaluate(
        model, PixelDecoder.from_pretrained(NAME), (4,), 8, 5, tmp_path, checkpoint=NAME
    )
    level = found["levels"]["4"]
    assert level["cells"] >= 0.95 and level["player"] >= 0.8 and level["psnr"] > 20
