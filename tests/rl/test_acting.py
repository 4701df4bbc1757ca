"""What rollouts are rewarded by, as the config says, and what is refused of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from latentum_jax.config import ChatConfig
from latentum_jax.data.frozenlake.frames import simulate
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.decoder.folder import DecoderFolder, write_decoder_folder
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.eval.vsp import read_moves
from latentum_jax.models.folder import read_folder
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.prompter import Prompter
from latentum_jax.rl import start as begin
from latentum_jax.rl.acting import judging, moves_of
from latentum_jax.rl.feed import letters_of
from latentum_jax.sharding import make_mesh
from latentum_jax.train.loop import train_stage
from tests.models_on_disk import write_random_model
from tests.rl import some_rollouts as some
from tests.rl.small_grpo import config_of
from tests.small import DECODER, SMALL
from tests.train.small_recipes import metrics_of

REWARDS = """
from pathlib import Path

import numpy as np

def constant(prompts, images):
    np.savez(Path(__file__).with_name("seen.npz"), prompts=list(prompts), images=images)
    return [0.25] * len(images)

def broken(prompts, images):
    return [np.nan] * len(images)

def short(prompts, images):
    return [1.0]
"""


@pytest.mark.parametrize(
    "said, moves",
    [
        (["R", "img", "D", "img", "im_end"], "RD"),
        (["R", "img", "D", "img", "Done!", "im_end"], "RD"),  # the D of it is no move
        (["Done!", "im_end"], ""),
        (["R", "D", "img", "L", "img"], ""),  # two letters are no step
        (["R", "img", "x", "img", "D", "img"], "R"),
        (["R", "img", "D"], "RD"),  # ended at its limit
        (["R", "img", "im_end"], "R"),
        (["im_end"], ""),
        ([], ""),
    ],
)
def test_moves_as_an_evaluation_reads_them(small, said, moves):
    """Breaks if a policy is rewarded for what does not solve a maze when it is measured."""
    ids, tokenizer = small.tokenizer.ids, small.tokenizer
    numbers, whole = [], []
    for name in said:
        own = [getattr(ids, name)] if hasattr(ids, name) else tokenizer.encode(name)
        numbers += own
        whole += [*own, ids.img_end] if name == "img" else own
    assert moves_of(numbers, tokenizer) == moves
    plan = Prompter(SMALL, ChatConfig(system=""), tokenizer).plan(whole, np.zeros((0, 4, 2)))
    assert read_moves(plan, "fine") == moves


def test_plans_are_rewarded_by_the_simulator(small):
    """The goal is two steps to the right of the start, a hole below. Breaks if labels are not
    what is read, or plans meet other mazes than their own."""
    right, wrong = Maze(("SFG", "HFF", "FFF")), Maze(("SHF", "FFF", "FFG"))
    config = config_of(grpo__task="plan")
    config.grpo.rewards.update({"self": 0.0, "maze": 3.0})
    judge = judging(config, small.model, small.tokenizer)
    img = small.tokenizer.ids.img
    (r,), (d,) = (small.tokenizer.encode(letter) for letter in "RD")
    rows = {"labels": jnp.asarray([[-100, r, img, -100, r, img], [-100, r, img, -100, r, img],
                                   [-100, d, img, -100, r, img], [-100] * 6])}  # fmt: skip
    mazes = [right, wrong, right, right]
    with jax.set_mesh(make_mesh({})):
        found = judge({}, rows, {"maze": jnp.asarray(np.stack([letters_of(m) for m in mazes]))})
    expected = [simulate(m, plan) for m, plan in zip(mazes, ("RR", "RR", "DR", ""), strict=True)]
    assert found["maze"].tolist() == [float(x) for x in expected] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    "task, rewards, message",
    [
        ("draw", {"self": 0.0}, r"has weights for \[\], the task 'draw' is rewarded by self and"),
        ("draw", {"maze": 1.0}, r"for \['maze', 'self'\], the task 'draw' is rewarded by self and"),
        ("plan", {}, r"for \['self'\], the task 'plan' is rewarded by maze"),
    ],
)
def test_rewards_that_are_not_for_a_task(small, task, rewards, message):
    """Breaks if a run begins that learns from nothing, or from another task's reward."""
    config = config_of(grpo__task=task)
    config.grpo.rewards.update(rewards)
    with pytest.raises(ValueError, match=message):
        judging(config, small.model, small.tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The random model, a random decoder of what it draws, rewards and prompts."""
    path = tmp_path_factory.mktemp("pixels")
    write_random_model(path / "model")
    decoder = DecoderFolder(DECODER, init_decoder_params(DECODER, jax.random.key(0)))
    write_decoder_folder(path / "decoder", decoder, dtype="float32")
    (path / "mine.py").write_text(REWARDS)
    (path / "prompts.txt").write_text("a dog\ntwo cats\n")
    return path


def by_pixels(folder, function):
    config = config_of(data__source="prompts", data__path=str(folder / "prompts.txt"))
    config.grpo.rewards.update({"self": 0.0, "pixel": 2.0})
    config.grpo.pixel.update({"function": f"{folder}/mine.py:{function}", "steps": 2})
    config.grpo.pixel.decoder = str(folder / "decoder")
    config.init_from, config.data.length = str(folder / "model"), 24
    config.steps, config.checkpoint_every = 2, 2
    config.optimizer.update({"learning_rate": 1e-2, "warmup": 0})
    return config


def test_pixels_of_what_was_drawn(small, folder):
    """Breaks if a function is given other pictures than the codes decode to, or other prompts."""
    config = by_pixels(folder, "constant")
    judge = judging(config, small.model, small.tokenizer)
    rows = some.pictures()
    with jax.set_mesh(make_mesh({})):
        found = judge(small.params, rows, rows)
    assert found["pixel"].tolist() == [0.25] * 4
    seen = np.load(folder / "seen.npz")
    assert seen["prompts"].tolist() == [text for text in some.CAPTIONS for _ in range(some.GROUP)]
    z_q = np.asarray(small.run("look_up", rows["codes"][:, 0]))
    expected = PixelDecoder.from_pretrained(folder / "decoder").decode(z_q, steps=2)
    np.testing.assert_array_equal(seen["images"], expected)


def test_equal_rewards_teach_nothing(folder, tmp_path):
    """All 0.25: no gradient, and not a weight moves (without a reference: to Adam the rounding in
    the gradient of a KL of 0 is a gradient like any other)."""
    config = by_pixels(folder, "constant")
    config.grpo.beta = 0.0
    done = train_stage(config, tmp_path / "run", begin.start_of)
    lines = metrics_of(tmp_path / "run")
    assert [line["equal_groups"] for line in lines] == [1, 1]
    assert [line["reward"] for line in lines] == [0.5, 0.5]
    assert [line["pixel_reward"] for line in lines] == [0.25, 0.25]
    assert [line["grad_norm"] for line in lines] == [0, 0]
    before, after = (flatten_dict(read_folder(p).params) for p in (folder / "model", done))
    chex.assert_trees_all_equal(
        *({k: np.asarray(x) for k, x in p.items()} for p in (before, after))
    )


@pytest.mark.parametrize(
    "function, message",
    [
        ("broken", "the reward broken returned nan for rollout 0 of 4, expected finite numbers"),
        ("short", r"the reward short returned an array \[1\], expected \[4\]"),
    ],
)
def test_a_broken_reward_ends_a_run(folder, tmp_path, function, message):
    """Breaks if NaN becomes weights, or one number is taken for all rollouts."""
    with pytest.raises(ValueError, match=message):
        train_stage(by_pixels(folder, function), tmp_path / "run", begin.start_of)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grpo__pixel__decoder": ""}, "grpo.pixel.decoder is '', expected a decoder's folder"),
        ({"grpo__pixel__function": "mine"}, "a reward is given as module:function, got 'mine'"),
        ({"dtype": "float16"}, "dtype is 'float16', expected one of"),
        ({"grpo__group": 3}, "data.rows is 4, expected a multiple of grpo.group, 3"),
        ({"grpo__top_p": 0.0}, "expected temperature >= 0, top_k >= 0 and top_p above 0"),
    ],
)
def test_wrong_configs_leave_nothing_behind(folder, tmp_path, change, message):
    """Breaks if a wrong value is found only after rollouts, or leaves a folder."""
    config = by_pixels(folder, "constant")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in change.items()})
    with pytest.raises(ValueError, match=message):
        train_stage(config, tmp_path / "run", begin.start_of)
    assert not (tmp_path / "run").exists()
