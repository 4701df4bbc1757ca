"""Planning towards pictures: scores by hand, costs, a run that is cut, and the command line."""

import json
import math
import shutil

import numpy as np
import pytest

from latentum_jax.cli import main
from latentum_jax.data.navigation.recon import Trajectories, write_trajectory
from latentum_jax.data.navigation.words import Action
from latentum_jax.eval import recon
from latentum_jax.eval.cem import CEM
from latentum_jax.eval.runs import run_in
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.models.folder import write_folder
from latentum_jax.pretrained import LatentUM
from latentum_jax.rollout import latent_features, rollout
from tests.small_world import small_world

SEARCH = CEM(samples=3, elites=2, repeats=1, steps=2, mean=(0.1, 0, 0), std=(0.05, 0.02, 9))


@pytest.fixture(scope="module")
def folder():
    return small_world()


@pytest.fixture(scope="module")
def model(folder):
    return LatentUM(folder)


@pytest.fixture(scope="module")
def episodes():
    return recon.held_out(3, seed=0, steps=2)


def test_scores_by_hand():
    """Two steps of 0.3 m ahead were gone from (1, 1), looking along y: to (1, 1.6). The path turns
    by 90 degrees at once and so goes on along -x: (1, 1.3), then (0.7, 1.3), 0.424 m off. ATE:
    distances 0, 0 and 0.424, root mean square 0.245. RPE: steps are the same but for where they
    are, the first turns by 90 degrees: 0 m. It looks at 180 instead of 90 degrees."""
    poses = np.array([[1, 1, math.pi / 2], [1, 1.3, math.pi / 2], [1, 1.6, math.pi / 2]])
    episode = recon.Episode("", [], [], "", poses)
    found = recon.score(episode, [Action(0.3, 0, 90), Action(0.3, 0, 0)])
    assert found["position"] == pytest.approx(0.3 * math.sqrt(2))
    assert found["ate"] == pytest.approx(0.3 * math.sqrt(2) / math.sqrt(3))
    assert found["rpe"] == pytest.approx(0.0, abs=1e-9) and found["yaw"] == pytest.approx(90)
    exact = recon.score(episode, [Action(0.3, 0, 0)] * 2)
    assert max(exact.values()) == pytest.approx(0.0, abs=1e-6)


def test_episodes_of_both_kinds(episodes, tmp_path):
    """Breaks if the goal is not the last frame, or a window has the actions of another place."""
    (one, *_) = episodes
    assert len(one.frames) == 4 and len(one.actions) == 3 and one.poses.shape == (3, 3)
    frames = [*one.frames, one.frames[0], one.goal]
    poses = np.concatenate([np.zeros((3, 3)), one.poses])
    write_trajectory(tmp_path / "a", frames, poses, suffix=".png")
    windows = Trajectories(tmp_path, size=6)
    (again,), unreadable = recon.of_folder(windows, 1, seed=0)
    assert not unreadable
    np.testing.assert_allclose(again.poses, one.poses)
    assert again.goal.name == "5.png" and [f.name for f in again.frames] == [
        f"{i}.png" for i in range(4)
    ]
    with pytest.raises(ValueError, match="has 1 good windows, 2 are asked for"):
        recon.of_folder(windows, 2, seed=0)
    (tmp_path / "b").mkdir()
    broken = Trajectories(tmp_path, size=6)
    drawn = [recon.of_folder(broken, 1, seed) for seed in range(4)]
    told = [unreadable for _, unreadable in drawn if unreadable]
    assert 0 < len(told) < 4 and list(told[0]) == [str(tmp_path / "b")]
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "a")
    (moved,), _ = recon.of_folder(Trajectories(tmp_path / "elsewhere", size=6), 1, seed=0)
    assert recon.digest_of([moved]) == recon.digest_of([again]) != recon.digest_of([one])


def test_results_by_hand():
    """Breaks if nearer counts as farther or walks are mixed: planned ends lie 1 and 2 m from the
    goal, straight ones 2 and 5 m: 1 and 3 m nearer, 2 in the mean, and half the 95% interval is
    1.96 sqrt(2) / sqrt(2) m; random ones 0 and 3 m: in one of two farther, by 0 m in the mean."""
    way = lambda position: {"ate": 0.1, "rpe": 0.1, "position": position, "yaw": 5.0}  # noqa: E731
    ends = [(1.0, 2.0, 0.0), (2.0, 5.0, 3.0)]
    items = [dict(zip(recon.WAYS, map(way, row), strict=True)) for row in ends]
    found = recon.results_of(items)
    assert found["nearer"] == {"straight": 1.0, "random": 0.5}
    assert found["nearer_by"]["straight"] == pytest.approx({"mean": 2.0, "ci95": 1.96})
    assert found["nearer_by"]["random"]["mean"] == 0.0
    assert "| 100%, by 2.000 ± 1.960 m |" in recon.table(found)


def test_costs(model, episodes):
    """Breaks if the cost is not of the last frame, or pixels are asked of another rollout."""
    episode = episodes[0]
    paths = [[Action(0.1, 0, 0)] * 2, [Action(0.2, 0, 20)] * 2]
    found = recon.latent_cost(model, episode, paths, GREEDY)
    rows = [episode.frames] * 2, [[*episode.actions, *path] for path in paths]
    codes, _ = rollout(model, *rows, sampling=GREEDY)
    goal = latent_features(model, model.encode([episode.goal])[1])[0]
    for row in range(2):
        apart = latent_features(model, codes[row, -1]) - goal
        assert found[row] == pytest.approx(float((apart**2).mean()), rel=1e-5)

    def decode(z_q, *, references, seeds):
        return np.stack([np.full((40, 40, 3), i, np.uint8) for i in range(len(z_q))])

    def distance(pictures, goal):
        assert pictures.shape == (2, 40, 40, 3) and goal.shape == (1, 40, 40, 3)
        return pictures[:, 0, 0, 0].astype(float)

    given = {"decode": decode, "distance": distance}
    assert recon.pixel_cost(model, episode, paths, GREEDY, **given).tolist() == [0, 1]


def test_a_run_goes_on_where_it_was_cut(model, episodes, tmp_path):
    """Breaks if a finished episode is planned again, or what follows depends on the cut."""
    asked = []

    def cost(model, episode, paths, sampling):
        asked.append(episode.key)
        if len(asked) == 3 and not (tmp_path / "a/results.json").exists():
            raise ValueError("the judge failed")
        return np.array([abs(path[0].dx) for path in paths])

    with pytest.raises(ValueError, match="the judge failed"), run_in(tmp_path / "a", {}) as run:
        recon.evaluate(model, episodes, run, SEARCH, 7, cost)
    with run_in(tmp_path / "a", {}) as run:
        assert len(run.done) == 2
        cut = recon.evaluate(model, episodes, run, SEARCH, 7, cost)
        run.finish(cut, recon.table(cut))
    assert asked == ["0/0", "0/1", "0/2", "0/2"]
    with run_in(tmp_path / "b", {}) as run:
        assert recon.evaluate(model, episodes, run, SEARCH, 7, cost) == cut
    items = [json.loads(line) for line in (tmp_path / "a/items.jsonl").read_text().splitlines()]
    assert cut["planned"]["ate"]["mean"] == pytest.approx(
        np.mean([x["planned"]["ate"] for x in items])
    )


def test_the_commands(folder, tmp_path, capsys):
    """`eval recon` and `rollout` end to end, in the small world; then bad input, exit code 2."""
    write_folder(tmp_path / "model", folder)
    given = ["--checkpoint", str(tmp_path / "model")]
    few = ["--num", "1", "--samples", "3", "--elites", "2", "--rollouts", "1", "--steps", "2"]
    assert main(["eval", "recon", *given, *few, "--out", str(tmp_path / "recon")]) == 0
    results = json.loads((tmp_path / "recon/results.json").read_text())
    assert results["episodes"] == 1 and results["search"]["samples"] == 3
    assert "planned" in capsys.readouterr().out
    episode = recon.held_out(1, seed=1, steps=3)[0]
    poses = np.concatenate([np.zeros((3, 3)), episode.poses])
    write_trajectory(tmp_path / "walk", [*episode.frames, *[episode.goal] * 3], poses)
    out = ["--draw", "none", "--out", str(tmp_path / "out")]
    walk = ["--trajectory", str(tmp_path / "walk")]
    assert main(["rollout", *given, *walk, *out]) == 0
    with np.load(tmp_path / "out/codes.npz") as saved:
        assert saved["codes"].shape == (3, 16 // 4, 2) and len(saved["prompts"]) == 3
    capsys.readouterr()
    (tmp_path / "bad.txt").write_text("go on\nAction(1, 2)\n")
    frames = [str(tmp_path / f"walk/{i}.jpg") for i in range(4)]
    for args, message in [
        ([*walk, "--first", "4"], "has 3 frames from 4 on, expected 4"),
        ([*walk, "--steps", "9"], "9 are asked for"),
        (frames, "--actions FILE, or --trajectory DIR"),
        (
            [*frames, "--actions", str(tmp_path / "bad.txt")],
            "action 2: the action is 'Action(1, 2)'",
        ),
        (["--trajectory", str(tmp_path / "none")], "none"),
    ]:
        assert main(["rollout", *given, *args, *out]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert message in told[-1] and len(told) == 1
    assert (
        main(["eval", "recon", *given, *few, "--seed", "5", "--out", str(tmp_path / "recon")]) == 2
    )
    assert "seed was 0 and is 5" in capsys.readouterr().err
