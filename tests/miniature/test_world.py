"""Parts about the small world: errors by hand, and both parts with a small random model."""

import functools
import json

import numpy as np
import pytest

from latentum_jax.cli import main
from latentum_jax.data.navigation.motion import actions_between
from latentum_jax.decoder.folder import write_decoder_folder
from latentum_jax.eval import recon
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.miniature import world
from latentum_jax.miniature.part import Given, Sizes
from latentum_jax.miniature.spread import spread
from latentum_jax.models.folder import write_folder
from latentum_jax.rollout import latent_features, rollout
from tests.small_world import small_drawer, small_world

SIZES = Sizes(walks=2, horizon=2, decode_steps=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random world model with its decoder of four references."""
    path = tmp_path_factory.mktemp("world") / "nav"
    write_folder(path, small_world())
    write_decoder_folder(path / "decoder", small_drawer(), dtype="float32")
    return path


def test_errors_by_hand():
    """Breaks if steps are mixed, or errors are measured by something else than the spread of what
    is true: two walks at 1 and 5 lie 2 from their mean, 4 squared; at step 1 errors are 1 and -1,
    a quarter of that; at step 2 there are none."""
    truth = np.array([1.0, 5.0]).reshape(2, 1, 1, 1) * np.ones((2, 2, 3, 4))
    made = truth.copy()
    made[:, 0] += np.array([1.0, -1.0]).reshape(2, 1, 1)
    assert world.relative(made, truth) == pytest.approx({"1": 0.25, "2": 0.0, "mean": 0.125})


@pytest.mark.slow
def test_both_recurrences_against_rollouts(folder, tmp_path):
    """Breaks if frames, actions or steps are put beside others' truth: each error is taken again
    from rollouts of one walk at a time."""
    given = Given(str(folder), SIZES, tmp_path)
    found, model = world.rolled_out(given, 3), given.model
    assert found["latent"]["seconds"] > 0 and found["pixels"]["seconds"] > 0
    decode = functools.partial(given.decoder.decode, steps=1)
    apart, true = {name: np.zeros(2) for name in ("latent", "still")}, []
    for row, (frames, poses) in enumerate(recon.held_out_walks(2, 3, 2)):
        assert len(frames) == 6
        one = [list(frames[:4])], [actions_between(poses)]
        own = {
            "latent": rollout(model, *one, sampling=GREEDY, seeds=[row])[0][0],
            "still": np.stack([model.encode(frames[3])[1][0]] * 2),
        }
        true.append(latent_features(model, model.encode(list(frames[4:]))[1]))
        for name, codes in own.items():
            apart[name] += np.square(latent_features(model, codes) - true[-1]).mean(axis=(1, 2)) / 2
    spread_of = np.square(np.stack(true) - np.mean(true, axis=(0, 1))).mean()
    for name, sums in apart.items():
        expected = {str(step): share for step, share in enumerate(sums / spread_of, 1)}
        expected["mean"] = float((sums / spread_of).mean())
        assert found[name]["error"] == pytest.approx(expected, rel=1e-4)
    rows = [list(f[:4]) for f, _ in recon.held_out_walks(2, 3, 2)]
    actions = [actions_between(poses) for _, poses in recon.held_out_walks(2, 3, 2)]
    codes, _ = rollout(model, rows, actions, decode, sampling=GREEDY)
    expected = world.relative(latent_features(model, codes), np.stack(true))
    assert found["pixels"]["error"] == pytest.approx(expected)


@pytest.mark.slow
def test_the_command(folder, tmp_path, capsys):
    """Both parts end to end; a second seed takes up where the first ended."""
    few = ["--world", str(folder), "--parts", "world,cem", "--walks", "2", "--horizon", "2"]
    few += ["--decode-steps", "1", "--episodes", "1", "--candidates", "6", "--ahead", "2"]
    for seeds in ("0", "0,1"):
        assert main(["miniature", "--out", str(tmp_path), *few, "--seeds", seeds]) == 0
    page = (tmp_path / "miniature.md").read_text()
    for text in ("latent beats pixels over the horizon", "| latent recurrence |", "ATE (m)"):
        assert text in page
    results = json.loads((tmp_path / "cem/results.json").read_text())
    assert list(results["seeds"]) == ["0", "1"]
    episode = json.loads((tmp_path / "cem/1/items.jsonl").read_text())
    assert results["seeds"]["1"]["planned"]["ate"] == pytest.approx(episode["planned"]["ate"])
    for name in ("world", "cem"):
        assert "</svg>" in (tmp_path / f"miniature/{name}.svg").read_text()


def test_what_is_told_of_planning():
    """Breaks if nearer counts as farther: planned paths end 0.5 m nearer by ATE than straight ones
    and 0.25 m farther than random ones."""
    way = lambda ate: {"ate": ate, "rpe": 0.1, "position": 1.0, "yaw": 5.0}  # noqa: E731
    one = {"planned": way(0.5), "straight": way(1.0), "random": way(0.25)}
    seeds = [{**one, "nearer": {"straight": 0.75, "random": 0.5}}] * 2
    text = world.tell_planned(seeds, spread(seeds)).text
    assert "It is so that paths planned in imagination beat straight ones (ATE): +0.500 m" in text
    assert "**not** so that paths planned in imagination beat random ones (ATE): -0.250" in text
    assert "| straight | 1.000 ± 0.000 |" in text and "| 75 ± 0 |" in text
