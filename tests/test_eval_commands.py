"""Benchmarks run by the bundled model from the command line: cut, gone on with, refused, scored."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from latentum_jax import cli, judge
from latentum_jax.data.frozenlake.frames import draw, start_state
from latentum_jax.data.frozenlake.mazes import unique_mazes
from latentum_jax.eval import geneval, geneval2, mcq, mme, pope, understanding
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM

MAZES = unique_mazes(0, 3, 3, "test")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder with pictures of mazes and a handful of questions of every benchmark."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "img").mkdir()
    task = folder / "mme/existence"
    task.mkdir(parents=True)
    for i, maze in enumerate(MAZES):
        Image.fromarray(draw(start_state(maze))).save(folder / f"img/{i}.png")
        if i < 2:
            shutil.copy(folder / f"img/{i}.png", task / f"{i}.png")
            (task / f"{i}.txt").write_text("Is there a hole?\tYes\nIs there a dog?\tNo\n")
    objects = [
        {"question_id": i, "image": f"{i % 3}.png", "text": "Is there a hole?", "label": label}
        for i, label in enumerate(("yes", "no", "no"))
    ]
    choices = [
        {
            "id": i,
            "image": f"{i}.png",
            "question": "Where?",
            "answer": "ABC"[i],
            "category": f"c{i % 2}",
        }
        | {"options": ["left", "right", "top"]}
        for i in range(3)
    ]
    shapes = [
        {"tag": "counting", "include": [{"class": "dog", "count": 1}], "prompt": "a maze"},
        {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "two mazes"},
    ]
    atoms = [
        {"prompt": f"{n} dogs", "atom_count": 1 + (n == "two"), "skills": ["count", "object"]}
        | {"vqa_list": [["How many dogs?", n], ["Is it a dog?", "Yes"]]}
        for n in ("one", "two", "three")
    ]
    for name, lines in (
        ("pope_random.json", objects),
        ("mcq.jsonl", choices),
        ("geneval.jsonl", shapes),
        ("geneval2.jsonl", atoms),
    ):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def here(bench, tmp_path, monkeypatch):
    """The same as the working folder, with batches of two and nothing in `out`."""
    monkeypatch.chdir(bench)
    for module in (understanding, geneval, geneval2):
        monkeypatch.setattr(module, "BATCH", 2)
    return tmp_path / "out"


def cut(monkeypatch, owner, name, after):
    """Makes a method fail, once it has been called `after` times, until it is mended."""
    real, calls = getattr(owner, name), []

    def fails(*args, **options):
        calls.append(args)
        if len(calls) == after + 1:
            raise ValueError("the judge has gone home")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, fails)
    return calls


def items(out):
    return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]


def run_cut_and_resumed(command, out, calls, other, capsys):
    """Runs a command that is cut after its first batch, again, and then with another setting.

    Returns the results of the second run and its table.
    """
    argv = ["eval", *command.split(), "--out", str(out)]
    assert cli.main(argv) == 2
    assert "the judge has gone home\n" in capsys.readouterr().err
    assert not (out / "results.json").exists()
    first = items(out)
    assert first
    with (out / "items.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    before = len(calls)
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    found = items(out)
    assert found[: len(first)] == first and len({item["key"] for item in found}) == len(found)
    asked = len(calls) - before
    assert cli.main(argv) == 0  # all is finished: nothing is asked again
    assert len(calls) == before + asked
    assert capsys.readouterr().out == said
    assert cli.main([*argv, *other.split()]) == 2
    err = capsys.readouterr().err
    assert "holds another run" in err and err.count("latentum: error") == 1
    results = json.loads((out / "results.json").read_text()) if "geneval " not in command else None
    return results, said


def test_pope(here, monkeypatch, capsys):
    """A cut run would begin anew, or a table not follow from what was said."""
    calls = cut(monkeypatch, LatentUM, "answer", 1)
    command = "pope --data pope_random.json --images img --features both"
    results, said = run_cut_and_resumed(command, here, calls, "--features quantized", capsys)
    assert len(calls) == 1 + 1 + 3  # one batch, the one that failed, three more
    lines = {item["key"]: item["said"] for item in items(here)}
    for way in ("continuous", "quantized"):
        labels = (True, False, False)
        read = [pope.says_yes(lines[f"{way}/random/{i}"]) for i in range(3)]
        expected = pope.score(list(zip(read, labels, strict=True)))
        assert results["features"][way]["categories"] == {"random": expected}
        assert f"| random, {way} | 3 | {100 * expected['accuracy']:.1f} |" in said
    assert results["checkpoint"] == "frozenlake-tiny" and said == (here / "table.md").read_text()


def test_mme(here, monkeypatch, capsys):
    """The same, of pairs of questions."""
    calls = cut(monkeypatch, LatentUM, "answer", 1)
    command = "mme --data mme --features continuous"
    results, said = run_cut_and_resumed(command, here, calls, "--features both", capsys)
    lines = {item["key"]: item["said"] for item in items(here)}
    right = [
        (
            "existence",
            f"{i}.png",
            mme.read_answer(lines[f"continuous/existence/{i}.png/{n}"]) == yes,
        )
        for i in range(2)
        for n, yes in enumerate((True, False))
    ]
    assert results["features"]["continuous"] == mme.score(right)
    total = results["features"]["continuous"]["perception"]
    assert f"| perception (1 of 10 tasks) |  |  |  | {total:.1f} |" in said


def test_mcq(here, monkeypatch, capsys):
    """The same, of letters and how likely they are."""
    calls = cut(monkeypatch, judge, "probabilities", 1)
    command = "mcq --data mcq.jsonl --images img --features both"
    results, said = run_cut_and_resumed(command, here, calls, "--free", capsys)
    for way in ("continuous", "quantized"):
        lines = [item for item in items(here) if item["key"].startswith(way)]
        assert all(item["letter"] == "ABC"[int(np.argmax(item["p"]))] for item in lines)
        right = [item["letter"] == "ABC"[i] for i, item in enumerate(lines)]
        assert results["features"][way]["accuracy"] == sum(right) / 3
        assert results["features"][way]["categories"]["c1"] == {"n": 1, "accuracy": right[1]}
    assert "| multiple choice | questions | continuous | quantized |" in said


def test_mcq_in_words(here, capsys):
    """What the model says would not be what is read."""
    argv = "eval mcq --data mcq.jsonl --images img --free --circular".split()
    assert cli.main([*argv, "--out", str(here)]) == 0
    found = items(here)
    assert [item["key"] for item in found] == [
        f"continuous/{i}/{n}" for i in range(3) for n in range(3)
    ]
    options = ["left", "right", "top"]
    right = []
    for i in range(3):
        turned = [options[n:] + options[:n] for n in range(3)]
        said = [found[3 * i + n]["said"] for n in range(3)]
        letters = [mcq.read_letter(text, turned[n]) for n, text in enumerate(said)]
        right.append(all(letter == mcq.LETTERS[(i - n) % 3] for n, letter in enumerate(letters)))
    results = json.loads((here / "results.json").read_text())
    assert results["features"]["continuous"]["accuracy"] == sum(right) / 3
    assert results["circular"] and results["free"]


def test_geneval2(here, monkeypatch, capsys):
    """The same, of pictures that the model draws and is asked about."""
    calls = cut(monkeypatch, judge, "probabilities", 1)
    command = "geneval2 --data geneval2.jsonl"
    results, said = run_cut_and_resumed(command, here, calls, "--seed 1", capsys)
    found = items(here)
    answers = [item["answers"] for item in found]
    assert all(0 <= p <= 1 for pair in answers for p in pair)
    assert results["am"] == pytest.approx(100 * np.mean(answers))
    assert results["gm"] == pytest.approx(100 * np.mean([np.sqrt(a * b) for a, b in answers]))
    assert results["skills"]["count"]["mean"] == pytest.approx(100 * np.mean(answers, axis=0)[0])
    assert f"| all | 3 | {results['am']:.1f} | {results['gm']:.1f} |" in said
    assert results["sampling"] == {"temperature": 0.5, "top_k": 32, "top_p": 0.95}
    # What was drawn is what is asked about: the same codes, asked again, have the same answers.
    model = LatentUM.from_pretrained("frozenlake-tiny")
    drawn = model.generate(
        ["one dogs", "two dogs"],
        sampling=geneval.SAMPLING,
        guidance=geneval.GUIDANCE,
        seeds=[0, 1],
    )
    assert drawn.tolist() == [item["codes"] for item in found[:2]]


def test_geneval2_answers_of_another_judge(here, tmp_path, capsys):
    """A model would be needed to score what others found."""
    given = [{"prompt": f"{n} dogs", "answers": [1, 0.25]} for n in ("one", "two", "three")]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, given)))
    argv = ["eval", "geneval2", "--data", "geneval2.jsonl", "--checkpoint", "none"]
    argv += ["--answers", str(tmp_path / "given.jsonl"), "--out", str(here)]
    assert cli.main(argv) == 0
    assert "| all | 3 | 62.5 | 50.0 |" in capsys.readouterr().out


def test_geneval(here, tmp_path, monkeypatch, capsys):
    """Pictures would not lie where the official evaluation looks for them, a cut run draw them
    again or others, or what is seen in them count for other prompts."""
    calls = cut(monkeypatch, PixelDecoder, "decode", 1)
    command = "geneval --prompts geneval.jsonl --samples 2 --steps 1"
    run_cut_and_resumed(command, here, calls, "--samples 3", capsys)
    lines = (here / "../out/00001/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["two mazes"]
    for number in range(2):
        names = sorted(path.name for path in (here / f"{number:05}/samples").iterdir())
        assert names == ["0000.png", "0001.png"]
    with np.load(here / "00001/codes.npz") as kept:
        model = LatentUM.from_pretrained("frozenlake-tiny")
        options = {"sampling": geneval.SAMPLING, "guidance": geneval.GUIDANCE}
        assert np.array_equal(
            kept["codes"], model.generate(["two mazes"] * 2, seeds=[2, 3], **options)
        )
        assert not np.array_equal(*kept["codes"])
    dog = [{"class": "dog", "box": [0, 0, 1, 1]}]
    seen = [("00000/samples/0000.png", dog), ("00000/samples/0001.png", [])]
    seen += [("00001/samples/0001.png", dog)]
    text = "\n".join(json.dumps({"image": name, "objects": things}) for name, things in seen)
    (tmp_path / "seen.jsonl").write_text(text)
    argv = ["eval", "geneval", "--prompts", "geneval.jsonl", "--samples", "2", "--out", str(here)]
    argv += ["--checkpoint", "none", "--detections", str(tmp_path / "seen.jsonl")]
    assert cli.main(argv) == 0  # by hand: (1/2 + 1) / 2
    assert "| mean over tags | 3 | 75.0 |" in capsys.readouterr().out
    assert json.loads((here / "results.json").read_text())["missing"] == ["00001/samples/0000.png"]
    assert cli.main([*argv, "--samples", "4"]) == 2
    assert "holds another run: samples was 2 and is 4" in capsys.readouterr().err


def test_a_broken_picture_is_named(here, bench, tmp_path, capsys):
    """Among thousands of questions the one to mend would have to be searched for."""
    shutil.copytree(bench / "img", tmp_path / "img")
    (tmp_path / "img/2.png").write_text("no picture")
    argv = f"eval pope --data pope_random.json --images {tmp_path / 'img'} --out {here}".split()
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert "in questions random/2 to random/2: image " in err and "2.png: not an image" in err
    assert [item["key"] for item in items(here)] == ["continuous/random/0", "continuous/random/1"]


BAD = [
    ("pope --data none.json --images img", "none.json: there is no such file"),
    ("pope --data pope_random.json --images mme", "line 1: there is no image mme/0.png"),
    ("pope --data pope_random.json --images img --features all", "invalid choice: 'all'"),
    ("pope --data mcq.jsonl --images img", 'line 1: the key "question_id" is missing'),
    ("mme --data img", "img has no tasks"),
    ("mme --data none", "none is no folder of MME's tasks"),
    ("mcq --data pope_random.json --images img", "expected from 2 to 10 options"),
    ("mcq --data mcq.jsonl", "there is no image 0.png without --images"),
    ("geneval --prompts mcq.jsonl", 'line 1: the key "tag" is missing'),
    ("geneval --prompts geneval.jsonl --detections mcq.jsonl", '"objects" is missing or no list'),
    ("geneval --prompts geneval.jsonl --samples 0", "expected at least 1, got 0"),
    ("geneval --prompts geneval.jsonl --top-p 0", "expected temperature >= 0"),
    ("geneval2 --data mcq.jsonl", 'line 1: the key "prompt" is missing'),
    ("geneval2 --data geneval2.jsonl --answers mcq.jsonl", 'line 1: the key "prompt" is missing'),
    ("geneval2 --data geneval2.jsonl --checkpoint none", "there is no model at none"),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command for command, _ in BAD])
def test_bad_input(command, words, here, capsys):
    """A user would get a traceback, several lines, or a results folder with nothing in it."""
    assert cli.main(["eval", *command.split(), "--out", str(here)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("latentum: error: ") and err.count("\n") == 1
    assert words in err
    assert not here.exists()
