"""The loop on every stage at the smallest size: what trains, what resumes, what is written.

Every run has the same four steps, so that a stage is compiled once for the whole file.
"""

import dataclasses
import signal

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util

from latentum_jax.configs.frozenlake_tiny import bucket, get_config
from latentum_jax.data.faults import Faults
from latentum_jax.models.folder import read_folder
from latentum_jax.models.latentum import LatentUM
from latentum_jax.train import loop
from latentum_jax.train import start as begin
from latentum_jax.train.data import open_feed
from latentum_jax.train.loop import train, train_stage
from latentum_jax.train.recipe import stage_config
from latentum_jax.train.stages import STAGES
from latentum_jax.train.start import starting_model
from latentum_jax.train.state import make_step
from latentum_jax.train.stopping import Stopped
from tests.models_on_disk import random_model, write_random_model
from tests.train.small_recipes import metrics_of, watched

BUCKETS = {
    "vlm": bucket("questions", 1.0, 2, 256),
    "mbaq": bucket("questions", 1.0, 2, 256),
    "mome": bucket("captions", 1.0, 2, 640),
    "sft": bucket("fine", 1.0, 2, 256, (1, 2)),
}


def config_of(link, init_from="", **changes):
    config = stage_config(get_config(), link)
    config.model.update(random_model().config.to_dict())
    config.data.buckets = (BUCKETS[link],)
    config.steps, config.checkpoint_every, config.init_from = 4, 2, init_from
    for name, value in changes.items():
        config[name] = value
    return config


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(write_random_model(tmp_path_factory.mktemp("start") / "model"))


def untimed(line):
    """What a line of metrics says of the step, not of how long it took."""
    return {k: v for k, v in line.items() if k not in ("rate", "tokens", "images", "data_wait")}


def changed(before, after):
    """Top of the path of every parameter that differs between two folders."""
    a, b = (traverse_util.flatten_dict(read_folder(p).params, sep="/") for p in (before, after))
    chex.assert_trees_all_equal_shapes(a, b)
    return {path for path in a if not np.array_equal(a[path], b[path])}


@pytest.mark.parametrize(
    ("stage", "moves", "rests"),
    [
        (
            "mbaq",
            ["quantizer/codebook", "quantizer/down_proj/fc1/kernel", "quantizer/up_proj/fc2/bias"],
            ["vision/", "mlp1/", "language/", "visual_projector/", "head/"],
        ),
        (
            "mome",
            ["language/layers/gen/mlp/up_proj/kernel", "visual_projector/fc1/kernel"],
            ["vision/", "mlp1/", "quantizer/", "language/layers/und/", "language/embed_tokens"],
        ),
        (
            "sft",
            ["language/layers/und/mlp/up_proj/kernel", "language/layers/gen/o_proj/kernel"],
            ["vision/", "mlp1/", "quantizer/"],
        ),
    ],
)
def test_a_stage_trains_what_it_names(stage, moves, rests, start, tmp_path):
    """Breaks if a frozen parameter moves (the published scripts let codes drift) or none does."""
    done = train_stage(config_of(stage, start), tmp_path)
    moved = changed(start, done)
    assert set(moves) <= moved
    assert not [path for path in moved if path.startswith(tuple(rests))]
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert {"loss", "rate", "learning_rate", "grad_norm"} <= set(lines[0])
    assert list((tmp_path / "tensorboard").iterdir()) and (tmp_path / "config.json").is_file()


def test_the_published_two_steps_split_the_weights(start, tmp_path):
    """Breaks if lang-only touches the generation branch or vision-only the understanding one."""
    language = changed(start, train_stage(config_of("sft", start, part="language"), tmp_path / "l"))
    vision = changed(start, train_stage(config_of("sft", start, part="vision"), tmp_path / "v"))
    assert not language & vision
    assert all("/gen/" not in path and not path.startswith("head/") for path in language)
    assert all("/gen/" in path or path.startswith("head/") for path in vision)


def test_code_usage_goes_along(start, tmp_path):
    """Breaks if an export of what was trained says that every code is used as often."""
    usage = np.asarray(read_folder(train_stage(config_of("mbaq", start), tmp_path / "q")).usage)
    assert usage.shape == (2, 8) and np.ptp(usage) > 0
    np.testing.assert_allclose(usage.sum(-1), 1, atol=1e-5)
    config = config_of("mome", str(tmp_path / "q" / "model"))
    after = read_folder(train_stage(config, tmp_path / "m"))
    np.testing.assert_array_equal(np.asarray(after.usage), usage)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_as_if_nothing_had_been(start, tmp_path, monkeypatch):
    """Breaks if optimizer, EMA, code usage, data or randomness is not where it was."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = config_of("mbaq", start)
    train_stage(config, whole)

    def dies(index, batch):
        if index == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(begin, "open_feed", watched(dies))
        with pytest.raises(Killed):
            train_stage(config, broken)
    assert len(metrics_of(broken)) < 4
    assert not (broken / "model").exists()
    train_stage(config, broken)
    for ours, theirs in zip(metrics_of(broken), metrics_of(whole), strict=True):
        assert untimed(ours) == untimed(theirs)
    assert not changed(whole / "model", broken / "model")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_at_a_checkpoint(start, tmp_path, monkeypatch, number):
    """Breaks if a machine that is taken away costs the steps since the last checkpoint, or if the
    run that goes on is another."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = config_of("mbaq", start, checkpoint_every=4)
    train_stage(config, whole)

    def signals_itself(*args):
        step = make_step(*args, seed=config.seed, ema_decay=config.ema)

        def one(state, batch):
            if int(state.step) == 1:
                signal.raise_signal(number)
            return step(state, batch)

        return one

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_step", lambda *args, **_: signals_itself(*args))
        with pytest.raises(Stopped, match=f"{number.name}: stopped after step 2, the same command"):
            train_stage(config, stopped)
    assert len(metrics_of(stopped)) == 2 and not (stopped / "model").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before
    train_stage(config, stopped)
    for ours, theirs in zip(metrics_of(stopped), metrics_of(whole), strict=True):
        assert untimed(ours) == untimed(theirs)
    assert not changed(whole / "model", stopped / "model")


def test_bad_steps_are_counted_up_to_a_limit(start, tmp_path, monkeypatch):
    """Breaks if a run goes on for days on batches that teach it nothing, or stops at the first."""

    def spoil(index, batch):
        if index in (1, 2):
            batch["weights"] = np.full_like(batch["weights"], np.nan)

    monkeypatch.setattr(begin, "open_feed", watched(spoil))
    train_stage(config_of("mbaq", start, max_skipped=2), tmp_path / "goes_on")
    lines = metrics_of(tmp_path / "goes_on")
    assert [line.get("skipped") for line in lines] == [None, 1, 1, None]
    assert lines[1]["loss"] is None and np.isfinite(lines[3]["loss"])
    with pytest.raises(FloatingPointError, match="2 steps were skipped for such, max_skipped is 1"):
        train_stage(config_of("mbaq", start, max_skipped=1), tmp_path / "stops")


def test_a_chain_hands_its_model_on_and_is_not_run_twice(start, tmp_path, monkeypatch):
    """Breaks if a link starts from elsewhere than the link before, finished work is redone, or the
    process that writes does so within the mesh: what it computes then waits for all others."""
    write, within = begin.write_folder, []

    def written(*args, **kinds):
        within.append(jax.sharding.get_abstract_mesh())
        return write(*args, **kinds)

    monkeypatch.setattr(begin, "write_folder", written)
    config = get_config()
    config.model.update(random_model().config.to_dict())
    config.init_from = start
    config.steps, config.checkpoint_every, config.chain = 4, 2, ("mbaq", "mome")
    for name in config.chain:
        config.links[name].data.buckets = (BUCKETS[name],)
    done = train(config, tmp_path)
    assert done == tmp_path / "mome" / "model"
    assert len(within) == 2 and all(mesh.empty for mesh in within)
    moved = changed(tmp_path / "mbaq" / "model", done)
    assert moved and all(not path.startswith("quantizer/") for path in moved)
    monkeypatch.setattr(loop, "make_step", None)  # whoever trains again fails
    assert train(config, tmp_path) == done


def test_a_model_of_other_sizes_is_refused(start, tmp_path):
    """Breaks if sizes asked for are silently not those that train."""
    config = config_of("mome", start)
    config.model.quantizer.codebook_size = 16
    with pytest.raises(ValueError, match="codebook_size is 8 in .*, 16 in the config"):
        train_stage(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mbaq_may_make_another_quantizer(start):
    """Breaks if other sizes touch what no code shapes, or keep what they shape."""
    config = config_of("mbaq", start)
    config.model.quantizer.codebook_size = 16
    before, after = read_folder(start), starting_model(config)
    assert after.config.quantizer.codebook_size == 16
    assert after.params["quantizer"]["codebook"].shape[1] == 16
    for part in ("vision", "mlp1", "language"):
        chex.assert_trees_all_equal(after.params[part], before.params[part])
    config.model.language.num_layers += 1
    with pytest.raises(ValueError, match=r"model\.language\.num_layers is"):
        starting_model(config)


def test_mome_starts_from_the_understanding_branch(start):
    """Breaks if the stage forgets that the generation branch begins as a copy (section 3.2)."""
    folder = read_folder(start)
    config = config_of("mome", start)
    stage = STAGES["mome"](LatentUM(folder.config), config, folder.tokenizer.ids)
    layers = stage.start(folder.params)["language"]["layers"]
    chex.assert_trees_all_equal(layers["gen"], layers["und"])


def test_what_a_stage_adds_does_not_stay(start, tmp_path, monkeypatch):
    """Breaks if a model is written with what its stage has added, before `finish` takes it out."""
    made = STAGES["mome"]

    def adds(*args):
        stage = made(*args)
        take_out = lambda params: {n: x for n, x in params.items() if n != "added"}  # noqa: E731
        return dataclasses.replace(
            stage, start=lambda p: stage.start(p) | {"added": np.zeros(3)}, finish=take_out
        )

    monkeypatch.setitem(STAGES, "mome", adds)
    assert changed(start, train_stage(config_of("mome", start), tmp_path))


def test_wrong_configs_are_named(start, tmp_path):
    """Breaks if a wrong value is found only after minutes, or leaves a folder behind."""
    cases = {
        "stage is": config_of("vlm", start, stage="nothing"),
        "objective is": config_of("mbaq", start, objective="kl2"),
        "part is": config_of("sft", start, part="both"),
        "is not a model folder": config_of("mome", str(tmp_path / "none")),
    }
    for message, config in cases.items():
        with pytest.raises(ValueError, match=message):
            train_stage(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_feed_goes_on_where_it_was(start):
    """Breaks if a batch depends on those before it: a resumed run would see other data."""
    folder = read_folder(start)
    args = (config_of("vlm", start), folder.config, folder.chat, folder.tokenizer)
    feed = open_feed(*args, Faults(None, 0))
    for _ in range(3):
        next(feed)
    state, late = feed.get_state(), next(feed)
    again = open_feed(*args, Faults(None, 0))
    again.set_state(state)
    chex.assert_trees_all_equal(next(again), late)
