"""The command line, run in this process: what it does, and what it says when it cannot."""

import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from latentum_jax import cli
from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import Maze
from latentum_jax.decoder.folder import DecoderFolder, write_decoder_folder
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.rl.start import start_of
from latentum_jax.train import loop
from tests.models_on_disk import write_random_model
from tests.small import DECODER, SMALL

MAZE = Maze(("SFF", "HFF", "FFG"))
LATENT = (SMALL.vision.num_tokens, SMALL.quantizer.num_codebooks)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("random") / "model")


@pytest.fixture
def maze(tmp_path):
    Image.fromarray(draw(start_state(MAZE))).save(tmp_path / "maze.png")
    return tmp_path / "maze.png"


@pytest.fixture
def files(tmp_path, maze, model):
    """Good and bad files by the names that commands below use."""
    whole = maze.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("no picture")
    good = json.dumps({"level": 3, "grid": MAZE.grid})
    (tmp_path / "broken.jsonl").write_text(good + '\n{"level": 3, "grid": ["SFF"\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "words.npz").write_text("no codes")
    np.save(tmp_path / "array.npy", np.zeros((1, *LATENT), int))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez(tmp_path / "other.npz", codes=np.zeros((1, 4, 9), int), prompts=["a"])
    np.savez(tmp_path / "far.npz", codes=np.full((1, *LATENT), 9999), prompts=["a"])
    (tmp_path / "far_cut.npz").write_bytes((tmp_path / "far.npz").read_bytes()[:300])
    shutil.copytree(model, tmp_path / "altered")
    config = json.loads((model / "config.json").read_text())
    config["model"]["language"]["mlp_size"] *= 2
    (tmp_path / "altered/config.json").write_text(json.dumps(config))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/config.json").write_text('{"architectures": ["InternVLChatModel"]}')
    (tmp_path / "foreign/model.safetensors").write_bytes(b"")
    return tmp_path


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


BAD = [
    # command, words of the one sentence that it ends with
    ("bench --size huge", "invalid choice: 'huge'"),
    ("bench --batch 1,0", "expected at least 1, got 0"),
    ("bench --target h200", "target is 'h200', expected one of"),
    ("plan maze.png --frames words.png -m", "is a file, expected a folder to write to"),
    ("plan maze.png --frames f -m", "comes without a pixel decoder: give --decoder DIR"),
    ("plan maze.png --frames f --decoder nowhere -m", "nowhere is not a model folder"),
    ("answer none.png where? -m", "none.png: cannot be read (No such file or directory)"),
    ("answer words.png where? -m", "words.png: not an image in a format that Pillow reads"),
    ("answer cut.png where? -m", "cut.png: damaged or cut short"),
    ("answer maze.png _ -m", "the question is empty"),
    ("answer maze.png where? --features both -m", "invalid choice: 'both'"),
    ("answer maze.png where? --checkpoint nowhere", "there is no model at nowhere"),
    ("answer maze.png where? --checkpoint altered", "down_proj/kernel has shape"),
    ("answer maze.png where? --checkpoint foreign", "is not a model of this library"),
    ("plan maze.png --mode medium -m", "argument --mode: invalid choice: 'medium'"),
    ("plan cut.png -m", "cut.png: damaged or cut short"),
    ("plan maze.png --max-steps 0 -m", "expected at least 1, got 0"),
    ("plan maze.png --max-steps 400 -m", "the context has 512"),
    ("plan maze.png --seed -1 -m", "argument --seed: expected"),
    ("generate _ -m", "the prompt is empty"),
    ("generate LONG -m", "the context has 512"),
    ("generate words --guidance nan -m", "expected a finite number, got 'nan'"),
    ("generate words --top-p 0 -m", "expected temperature >= 0"),
    ("generate words --out foreign -m", "foreign is a folder"),
    ("describe none.npz -m", "there is no file of codes none.npz"),
    ("describe words.npz -m", "words.npz is no file of codes: not an .npz archive"),
    ("describe array.npz -m", "array.npz is no file of codes: not an .npz archive"),
    ("describe other.npz -m", "other.npz holds int64 [1, 4, 9], this model's"),
    ("describe far.npz -m", "far.npz holds codes outside 0 to 7"),
    ("describe far_cut.npz -m", "far_cut.npz is damaged or cut short"),
    ("eval vsp --out out --mode medium -m", "invalid choice: 'medium'"),
    ("eval vsp --out out --levels 3,9 -m", "levels are 3 to 8, separated by commas, got '9'"),
    ("eval vsp --out out --num 0 -m", "expected at least 1, got 0"),
    ("eval vsp --out out --mazes broken.jsonl -m", "broken.jsonl, line 2: not JSON"),
    ("eval vsp --out out --mazes empty.jsonl -m", "there are no mazes"),
    ("eval vsp --out out --mazes none.jsonl -m", "none.jsonl: No such file or directory"),
    ("eval vsp --out out --levels 3 --mazes broken.jsonl -m", "not allowed with argument"),
    ("eval vsp --out words.png -m", "words.png is a file, expected a folder"),
    ("eval questions --out out --checkpoint nowhere", "there is no model at nowhere"),
    ("demo --out words.png -m", "words.png is a file, expected a folder"),
    ("demo --out out --checkpoint foreign", "is not a model of this library"),
    ("convert foreign out", "foreign is neither a LatentUM nor a decoder"),
    ("convert none out", "none is not a model folder: it has no config.json"),
    ("convert altered out", "down_proj/kernel has shape"),
    ("convert altered foreign", "foreign is there already"),
    ("convert altered words.png", "words.png is a file, expected a folder"),
    ("convert words.png out", "words.png is damaged or cut short"),
    ("convert altered out --to torch", "argument --to: invalid choice: 'torch'"),
    ("convert altered out --dtype int8", "argument --dtype: invalid choice: 'int8'"),
    ("convert altered out --references 1", "references are asked for with SD3.5 alone"),
    ("convert altered", "arguments are required: DST"),
    ("train --config nope --workdir run", "there is no config 'nope'"),
    ("train --config nope.py --workdir run", "there is no config file nope.py"),
    ("train --config frozenlake_tiny --workdir run --config.modle=1", "no config key 'modle'"),
    ("train --config frozenlake_tiny --workdir run --config.steps=x", "of type int, got 'x'"),
    ("train --config frozenlake_tiny --workdir run --config.steps", "needs a value"),
    ("train --config frozenlake_tiny --workdir run --cnofig.steps=1", "--cnofig.steps"),
    ("train --config frozenlake_tiny --workdir words.png", "words.png is a file"),
    ("train --config frozenlake_tiny", "arguments are required: --workdir"),
    ("answer maze.png where? more -m", "unrecognized arguments: more"),
    ("dance", "invalid choice: 'dance'"),
    ("", "arguments are required: COMMAND"),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command for command, _ in BAD])
def test_bad_input(command, words, files, model, capsys, monkeypatch):
    """A user would get a traceback, several lines, a wrong status, or half-written output."""
    monkeypatch.chdir(files)
    argv = [{"_": " ", "LONG": "goal " * 600}.get(word, word) for word in command.split()]
    if "-m" in argv:
        argv[argv.index("-m") :] = ["--checkpoint", str(model)]
    before = listing(files)
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("latentum: error: ") and err.count("\n") == 1
    assert words in err
    assert out == ""
    assert listing(files) == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (FloatingPointError("the loss of step 3 is nan"), "the loss of step 3 is nan"),
        (ModuleNotFoundError("it needs gymnasium,\n and that is missing"), "that is missing"),
    ],
)
def test_problems_in_training(error, said, tmp_path, capsys, monkeypatch):
    """A full disk or a diverged run would end in a traceback."""

    def fail(config, workdir, begin):
        raise error

    monkeypatch.setattr(loop, "train", fail)
    assert cli.main(["train", "--config", "frozenlake_tiny", "--workdir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


def test_bugs_are_not_hidden(tmp_path, monkeypatch):
    """A mistake in the library would look like one of the user's."""
    monkeypatch.setattr(loop, "train", lambda config, workdir, begin: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["train", "--config", "frozenlake_tiny", "--workdir", str(tmp_path)])


def test_interrupt(tmp_path, monkeypatch):
    """Ctrl-C would print a traceback, or look like success to a script."""

    def interrupt(config, workdir, begin):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", interrupt)
    assert cli.main(["train", "--config", "frozenlake_tiny", "--workdir", str(tmp_path)]) == 130


def test_train_hands_over_the_config(tmp_path, capsys, monkeypatch):
    """Overrides would be lost; or a caller's process be replaced by a restart."""
    seen = []
    monkeypatch.setattr(loop, "train", lambda *args: seen.append(args) or tmp_path / "model")
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("restarted"))
    argv = ["train", "--config.steps=7", "--config", "frozenlake_tiny"]
    assert cli.main([*argv, "--workdir", str(tmp_path), "--config.data.path", "a=b"]) == 0
    [(config, workdir, begin)] = seen
    assert begin is start_of  # of every stage, grpo too
    assert (config.steps, config.data.path, workdir) == (7, "a=b", tmp_path)
    assert str(tmp_path / "model") in capsys.readouterr().out


def test_help_is_fast():
    """`latentum --help` would take seconds."""
    code = (
        "import sys\nfrom latentum_jax.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print('loaded', *{'jax', 'flax', 'gymnasium', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("\nloaded\n") and "COMMAND" in run.stdout


def test_generate_then_describe(tmp_path, model, capsys):
    """Codes would not survive the way to disk and back, or a seed not decide what is drawn."""

    def drawn(name, seed):
        argv = ["generate", "a maze", "two mazes", "--checkpoint", str(model)]
        path = tmp_path / "new" / name
        assert cli.main([*argv, "--seed", seed, "--out", str(path)]) == 0
        with np.load(path) as arrays:
            return arrays["codes"]

    first, again, other = drawn("a.npz", "1"), drawn("b.npz", "1"), drawn("c.npz", "2")
    assert first.shape == (2, *LATENT)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(listing(tmp_path / "new")) == 3
    told = capsys.readouterr().out.split("2 latent images in")[0]
    argv = ["describe", str(tmp_path / "new/a.npz"), "--checkpoint", str(model)]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == told


def test_a_full_disk_leaves_nothing(tmp_path, model, capsys, monkeypatch):
    """A file cut short would be found later and believed."""

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    argv = ["generate", "a maze", "two mazes", "--checkpoint", str(model)]
    assert cli.main([*argv, "--out", str(tmp_path / "a.npz")]) == 2
    assert capsys.readouterr() == ("", "latentum: error: No space left on device\n")
    assert listing(tmp_path) == []


def test_convert(tmp_path, model, capsys):
    """A converted model would say something else, or not be found."""
    assert cli.main(["convert", str(model), str(tmp_path / "ours"), "--to", "ours"]) == 0
    assert capsys.readouterr().out == f"a model of this library, converted: {tmp_path / 'ours'}\n"
    told = []
    for folder in (model, tmp_path / "ours"):
        drawn = ["--out", str(tmp_path / "codes.npz"), "--checkpoint", str(folder)]
        assert cli.main(["generate", "a maze", *drawn]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]


def test_compile(model, capsys):
    """Breaks if a path is left out, so that its first caller waits, or 8 bits fit no program."""
    command = ["compile", "--checkpoint", str(model), "--batch", "2", "--weights", "int8"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert all(f"{name}, batch 2: " in said for name in ("answer", "generate", "plan"))


def test_answer_and_plan(maze, model, capsys):
    """A command would fail though everything it is given is right."""
    said = []
    for command in (["answer", str(maze), "Where?"], ["plan", str(maze)]):
        assert cli.main([*command, "--checkpoint", str(model)]) == 0
        said.append(capsys.readouterr().out)
    assert all(text.strip() for text in said)


def test_pictures_of_what_was_imagined(tmp_path, maze, model, capsys):
    """Breaks if a decoder given is not used, or one that is missing stops after the planning."""
    decoder = tmp_path / "decoder"
    params = init_decoder_params(DECODER, jax.random.key(0))
    write_decoder_folder(decoder, DecoderFolder(DECODER, params), dtype="float32")
    given = ["--checkpoint", str(model), "--decoder", str(decoder)]
    assert cli.main(["plan", str(maze), *given, "--frames", str(tmp_path / "f")]) == 0
    drawn = ["--images", str(tmp_path / "i"), "--steps", "2", "--out", str(tmp_path / "c.npz")]
    assert cli.main(["generate", "a maze", *given, *drawn]) == 0
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["0000.png"]
    argv = ["eval", "frames", *given, "--levels", "3", "--num", "2", "--out", str(tmp_path / "e")]
    assert cli.main(argv) == 0
    assert "| 3 | 2 |" in capsys.readouterr().out
    assert cli.main([*argv[:4], *argv[6:]]) == 2
    assert "comes without a pixel decoder: give --decoder DIR" in capsys.readouterr().err


def test_eval_vsp(tmp_path, model, capsys):
    """The user's own mazes would not be the ones solved."""
    mazes = tmp_path / "mazes.jsonl"
    mazes.write_text(json.dumps({"level": 3, "grid": MAZE.grid}))
    argv = ["eval", "vsp", "--mazes", str(mazes), "--checkpoint", str(model)]
    assert cli.main([*argv, "--mode", "coarse", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["checkpoint"] == str(model) and results["levels"]["3"]["n"] == 1
    assert json.loads((tmp_path / "out/items.jsonl").read_text())["grid"] == list(MAZE.grid)
    assert "level  mazes  success" in capsys.readouterr().out


def test_eval_vsp_on_published_maps(tmp_path, model, capsys):
    """A folder of the published benchmark would not be read, or a bad map vanish without a word."""
    folder = tmp_path / "maps/level3/table"
    folder.mkdir(parents=True)
    (folder / "0.txt").write_text("| | 1 | 2 | 3 |\n|a|@|_|_|\n|b|#|_|_|\n|c|_|_|*|\n")
    (folder / "1.txt").write_text("| | 1 | 2 |\n|a|@|_|\n|b|#|*|\n")
    argv = ["eval", "vsp", "--mazes", str(tmp_path / "maps"), "--checkpoint", str(model)]
    assert cli.main([*argv, "--mode", "coarse", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/items.jsonl").read_text())["grid"] == list(MAZE.grid)
    assert "1 files are no mazes; the first, level3/table/1.txt: " in capsys.readouterr().out
