"""The stage `grpo`: its loss against torch, and runs of it on the one loop at the smallest size."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from latentum_jax.data.frozenlake.mazes import MOVES, Maze
from latentum_jax.models.folder import read_folder, write_folder
from latentum_jax.rl import acting, grpo
from latentum_jax.rl import start as begin
from latentum_jax.rl.grpo import as_it_was, check, grpo_stage, make_act, with_reference
from latentum_jax.train.loop import train_stage
from tests.models_on_disk import random_model, write_random_model
from tests.rl import some_rollouts as some
from tests.rl.small_grpo import config_of
from tests.small import make_small
from tests.train.small_recipes import metrics_of

PROMPTS = "a dog\ntwo cats\na red cow\n"


def fake_scores(model, params, batch, **how):
    """A table stands for the model."""
    return params["scores"]


def random_batch():
    """4 rollouts of 2 places of text and 1 x 2 x 2 codes, told what `act` tells."""
    rng = np.random.default_rng(0)
    scores, old, sampled, reference = rng.normal(-2, 0.3, (4, 4, 6)).astype(np.float32)
    labels = np.array([[-100, 5, 6], [-100, 5, -100], [-100, -100, -100], [-100, 1, 2]])
    batch = {
        "labels": labels,
        "target_valid": np.array([[True], [True], [True], [False]]),
        "target_slot": np.zeros((4, 1), np.int32),
        "codes": np.zeros((4, 1, 2, 2), np.int32),
        "advantage": rng.normal(size=4).astype(np.float32),
        "sampled": sampled,
        "old": old,
        "reference": reference,
        "told/reward": np.float32([1, 2, 3, 6]),
    }
    return {"scores": jnp.asarray(scores)}, jax.tree.map(jnp.asarray, batch)


def stage_of(monkeypatch, **changes):
    monkeypatch.setattr(grpo, "policy_scores", fake_scores)
    config = config_of(grpo__task="plan", **changes)
    return grpo_stage(make_small().model, config, random_model().tokenizer.ids)


def value_of(stage, params, batch):
    def total(params):
        terms, (metrics, _) = stage.loss(params, {}, batch, jax.random.key(0))
        return sum(terms.values()), (terms, metrics)

    (_, aside), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return *aside, gradient["scores"]


def test_the_loss_against_torch(monkeypatch):
    """Terms, metrics and gradient by autograd. Breaks by a sign, a mean over all tokens, KL that is
    not weighed, places that were not chosen, or a gradient through the sampler's correction."""
    changes = {"grpo__clip": 0.2, "grpo__beta": 0.3, "grpo__truncate": 1.1, "grpo__epochs": 2}
    stage = stage_of(monkeypatch, **changes)
    params, batch = random_batch()
    terms, metrics, gradient = value_of(stage, params, batch)
    own = {name: torch.tensor(np.asarray(x)).double() for name, x in batch.items()}
    x = torch.tensor(np.asarray(params["scores"]), dtype=torch.float64, requires_grad=True)
    # By hand: labels behind the first, then the four codes of rollouts that drew.
    mask = torch.tensor(
        [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1] + [0] * 4]
    )
    ratio, a = (x - own["old"]).exp(), own["advantage"][:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    gain = gain * (own["old"] - own["sampled"]).exp().clamp(max=1.1)
    far = own["reference"] - x
    mean = lambda value: ((value * mask).sum(1) / mask.sum(1)).mean()  # noqa: E731
    policy, kl = -mean(gain), mean(far.exp() - far - 1)
    (policy + 0.3 * kl).backward()
    assert float(terms["policy"]) == pytest.approx(policy.item(), rel=1e-5)
    assert float(terms["kl"]) == pytest.approx(0.3 * kl.item(), rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(kl.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-6)
    over = lambda value: ((value * mask).sum() / mask.sum()).item()  # noqa: E731
    assert float(metrics["clipped"]) == pytest.approx(over(((ratio - 1).abs() > 0.2).double()))
    gap = over((own["old"] - own["sampled"]).abs())
    assert float(metrics["sampler_gap"]) == pytest.approx(gap, rel=1e-5)
    assert float(metrics["nats"]) == pytest.approx(-over(own["old"]), rel=1e-5)
    assert float(metrics["reward"]) == 3.0  # told of the four: 1 2 3 6


def test_a_batch_learnt_from_once_is_its_own_old_policy(monkeypatch):
    """Nothing is clipped then, and the gradient is that of weights x A x log pi: by hand, of a
    rollout with n places each has -A / 4n times its weight. Breaks if `old` has a gradient."""
    stage = stage_of(monkeypatch, grpo__beta=0.0, grpo__truncate=1.1)
    params, batch = random_batch()
    del batch["old"], batch["reference"]
    terms, metrics, gradient = value_of(stage, params, batch)
    assert set(terms) == {"policy"} and "kl" not in metrics and float(metrics["clipped"]) == 0
    weight = np.minimum(np.exp(np.asarray(params["scores"] - batch["sampled"])), 1.1)
    counts = np.array([[6], [5], [4], [2]])
    expected = -np.asarray(batch["advantage"])[:, None] / (4 * counts) * weight
    expected[1, 1] = expected[2, :2] = expected[3, 2:] = 0
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grpo__task": "talk"}, "grpo.task is 'talk', expected one of"),
        ({"grpo__temperature": 0.0}, "grpo.temperature is 0.0, expected a number above 0"),
        ({"grpo__clip": 1.0}, "grpo.clip is 1.0, expected a number above 0 and below 1.0"),
        ({"grpo__truncate": 0.0}, "grpo.truncate is 0.0, expected a number above 0"),
        ({"grpo__epochs": 0}, "grpo.epochs is 0, expected a number above 0"),
        ({"grpo__beta": -0.1}, "grpo.beta is -0.1, expected 0 or more"),
    ],
)
def test_numbers_out_of_range(change, message):
    """Breaks if a run that cannot learn begins."""
    with pytest.raises(ValueError, match=message):
        check(config_of(**change))


def test_the_reference_is_what_trains_as_it_was():
    """Breaks if the reference follows the policy, or what is frozen is held twice."""
    params = {"language": {"gen": 1.0, "und": 2.0}, "head": {"w": 3.0}}
    kept = with_reference(params, trainable="gen$|^head/")
    assert kept == {**params, "reference": {"language": {"gen": 1.0}, "head": {"w": 3.0}}}
    learnt = {**kept, "language": {"gen": 9.0, "und": 2.0}, "head": {"w": 8.0}}
    assert as_it_was(learnt) == params
    config, small = config_of(grpo__trainable="gen$|^head/"), make_small()
    stage = grpo_stage(small.model, config, small.tokenizer.ids)
    assert stage.finish(learnt) == {"language": {"gen": 9.0, "und": 2.0}, "head": {"w": 8.0}}


@pytest.mark.parametrize("beta, epochs", [(0.0, 1), (0.0, 2), (0.1, 1), (0.1, 2)])
def test_what_is_scored_before_a_batch_is_learnt_from(monkeypatch, beta, epochs):
    """Breaks if a pass is made that nothing needs, or `old` and `reference` are of the other
    policy. Rewards by hand: 2 x [1 3 2 2] + 0.5 x [0 0 2 2] in two groups."""
    asked = []

    def scored(model, params, rows, **how):
        asked.append(params)
        return params["w"]

    monkeypatch.setattr(grpo, "score", scored)
    config = config_of(grpo__beta=beta, grpo__epochs=epochs, grpo__group=2)
    config.grpo.rewards.update({"self": 2.0, "pixel": 0.5})
    parts = {"self": jnp.asarray([1.0, 3, 2, 2]), "pixel": jnp.asarray([0.0, 0, 2, 2])}
    params = {"w": 1.0, **({"reference": {"w": 7.0}} if beta else {})}
    rolled = []

    def roll(params, batch, key):
        rolled.append((params, batch))
        return {"rows": jnp.ones(4)}

    small, batch = make_small(), {"prompts": jnp.ones(4)}
    judge = lambda params, rows, batch: parts  # noqa: E731
    act = make_act(small.model, config, small.tokenizer.ids, roll, judge)
    made = act(params, batch, jax.random.key(0))
    assert rolled == [({"w": 1.0}, batch)]
    assert made.get("old") == (1.0 if epochs == 2 else None)
    assert made.get("reference") == (7.0 if beta else None)
    assert asked == [{"w": 1.0}] * (epochs - 1) + [{"w": 7.0}] * bool(beta)
    assert made["rows"].sum() == 4 and made["advantage"].tolist() == [-1, 1, 0, 0]
    assert made["told/reward"].tolist() == [2, 6, 5, 5]
    assert made["told/equal_groups"].tolist() == [0, 0, 1, 1]
    assert made["told/self_reward"].tolist() == [1, 3, 2, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the random model and a few prompts are."""
    path = tmp_path_factory.mktemp("start")
    write_random_model(path / "model")
    (path / "prompts.txt").write_text(PROMPTS)
    return path


def run_of(folder, **changes):
    """Three steps over short prompts at a rate that shows."""
    config = config_of(data__source="prompts", data__path=str(folder / "prompts.txt"), **changes)
    config.init_from = str(folder / "model")
    config.steps, config.checkpoint_every, config.data.length = 3, 1, 24
    config.optimizer.update({"learning_rate": 1e-2, "warmup": 0})
    config.grpo.ask.length = 560
    return config


def flat(params):
    return {path: np.asarray(x) for path, x in flatten_dict(params, sep="/").items()}


def moved(before, done):
    """Paths of the parameters that a written model has otherwise."""
    after, before = flat(read_folder(done).params), flat(before)
    assert set(after) == set(before)  # no reference among them
    return {path for path in after if not np.array_equal(after[path], before[path])}


def untimed(line):
    return {k: v for k, v in line.items() if k not in ("rate", "tokens", "images", "data_wait")}


def train(config, workdir):
    return train_stage(config, workdir, begin.start_of)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nothing befalls, by the model's own reward."""
    workdir = tmp_path_factory.mktemp("whole")
    train(run_of(folder, grpo__beta=0.1), workdir)
    return workdir


def test_the_generation_branch_alone_trains(whole):
    """As published. Breaks if what reads and judges moves with what draws: the reward would be
    taught to be content."""
    found = moved(random_model().params, whole / "model")
    begins = ("language/layers/gen/", "visual_projector/", "head/")
    assert all(path.startswith(begins) for path in found)
    assert all(any(path.startswith(name) for path in found) for name in begins)
    lines = metrics_of(whole)
    assert len(lines) == 3 and all(np.isfinite(v) for line in lines for v in line.values())
    assert {"reward", "self_reward", "equal_groups", "kl", "clipped", "nats"} <= set(lines[0])
    assert lines[0]["reward"] == lines[0]["self_reward"]


def test_a_policy_begins_as_its_own_reference(whole):
    """Breaks if reference, sampler and policy are not the same at first, or the reference goes
    along with the policy."""
    first, *_, last = metrics_of(whole)
    assert first["kl"] < 1e-9 and first["clipped"] == 0 and first["sampler_gap"] < 1e-5
    assert last["kl"] > 1e-5 and last["sampler_gap"] < 1e-5


class Killed(Exception):
    pass


def acting_as(monkeypatch, change):
    """`change(index, what was made of the batch)` before it is learnt from."""

    def making(*args):
        act, count = make_act(*args), iter(range(100))
        return lambda *given: change(next(count), act(*given))

    monkeypatch.setattr(begin, "make_act", making)


def test_a_killed_run_goes_on_as_if_nothing_had_been(folder, whole, tmp_path, monkeypatch):
    """Breaks if prompts, rollouts, optimizer or the reference are not where they were: whenever
    the reference is asked, it is the policy that the run began with."""
    start, asked = flat(random_model().params), []

    def look(params):
        found = as_it_was(params)
        for path, value in flat(found).items():
            np.testing.assert_array_equal(value, start[path], err_msg=path)
        same = [np.array_equal(value, start[path]) for path, value in flat(params).items()
                if path in start]  # fmt: skip
        asked.append(all(same))
        return found

    def dies(index, made):
        if index == 2:
            raise Killed
        return made

    monkeypatch.setattr(grpo, "as_it_was", look)
    with monkeypatch.context() as patch:
        acting_as(patch, dies)
        with pytest.raises(Killed):
            train(run_of(folder, grpo__beta=0.1), tmp_path)
    assert asked == [True, False, False] and not (tmp_path / "model").exists()
    train(run_of(folder, grpo__beta=0.1), tmp_path)
    assert 4 <= len(asked) <= 5 and not asked[-1]
    for ours, theirs in zip(metrics_of(tmp_path), metrics_of(whole), strict=True):
        assert untimed(ours) == untimed(theirs)
    assert not moved(read_folder(whole / "model").params, tmp_path / "model")


def test_a_batch_that_is_not_finite_is_skipped(folder, whole, tmp_path, monkeypatch):
    """Breaks if it spoils the policy or is not counted; the steps around it learn."""

    def spoil(index, made):
        return {**made, "advantage": made["advantage"] * (np.nan if index == 1 else 1)}

    acting_as(monkeypatch, spoil)
    train(run_of(folder, grpo__beta=0.1, max_skipped=1), tmp_path)
    lines = metrics_of(tmp_path)
    assert [line.get("skipped") for line in lines] == [None, 1, None]
    assert untimed(lines[0]) == untimed(metrics_of(whole)[0])
    assert lines[1]["loss"] is None and np.isfinite(lines[2]["loss"]) and lines[2]["kl"] > 0
    assert all(np.isfinite(x).all() for x in flat(read_folder(tmp_path / "model").params).values())


@pytest.mark.slow
def test_plans_train_both_branches(tmp_path, monkeypatch):
    """Two epochs and no reference. Breaks if words or pictures of a plan are not learnt, a reward
    is given other mazes or moves than letters, or nothing is clipped in the second epoch of a rate
    that is too high."""
    model = dataclasses.replace(random_model(), params=some.eager_to_draw())
    write_folder(tmp_path / "model", model)
    given = []

    def every_other(mazes, moves):
        given.append((mazes, moves))
        return np.float32(np.arange(len(mazes)) % 2)

    monkeypatch.setattr(acting, "maze_rewards", every_other)
    changes = {"grpo__epochs": 2, "grpo__beta": 0.0, "grpo__steps": 2, "steps": 2, "ema": 0.0}
    changes |= {"grpo__trainable": r"^language/|^visual_projector/|^head/"}
    config = config_of(grpo__task="plan", init_from=str(tmp_path / "model"), **changes)
    config.grpo.rewards.update({"self": 0.0, "maze": 1.0})
    config.checkpoint_every, config.data.length = 2, 128
    config.optimizer.update({"learning_rate": 1e-2, "warmup": 0})
    found = moved(model.params, train(config, tmp_path / "run"))
    begins = ("language/layers/und/", "language/layers/gen/", "language/lm_head", "head/")
    assert all(any(path.startswith(name) for path in found) for name in begins)
    assert not [path for path in found if path.startswith(("vision/", "mlp1/", "quantizer/"))]
    lines = metrics_of(tmp_path / "run")
    assert all(line["maze_reward"] == line["reward"] == 0.5 for line in lines)
    assert lines[0]["clipped"] > 0 and all(line["equal_groups"] == 0 for line in lines)
    assert lines[0]["sampler_gap"] < 1e-4 and not [line for line in lines if "kl" in line]
    mazes, moves = given[0]
    assert len(mazes) == len(moves) == 4 and mazes[0] == mazes[1] and isinstance(mazes[0], Maze)
    assert all(set(plan) <= set(MOVES) for plan in moves)


def test_metrics_are_json(whole):
    """Breaks if a told reward is no number to whoever reads the log."""
    for line in (whole / "metrics.jsonl").read_text().splitlines():
        chex.assert_type([float(v) for v in json.loads(line).values()], float)
