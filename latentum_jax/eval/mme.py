"""MME: fourteen tasks of two yes-or-no questions a picture.

A task counts up to 200: its accuracy over questions, and that over pictures both of whose questions
are answered rightly ("accuracy+"), in percent. Ten tasks are perception, four cognition.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentum_jax.data.pictures import PICTURES
from latentum_jax.eval.given import read_text, unique, yes_or_no
from latentum_jax.eval.runs import Run, markdown
from latentum_jax.eval.understanding import ONE_WORD, Asked, answer_all, speaker
from latentum_jax.pretrained import LatentUM

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
QUESTIONS, IMAGES = "questions_answers_YN", "images"  # where a task keeps them apart
LONGEST_ANSWER = 16  # tokens


@dataclass(frozen=True)
class Pair(Asked):
    """One of the two questions about a picture, and whether its answer is yes."""

    task: str
    picture: str
    yes: bool


def files_of(folder: Path) -> list[Path]:
    """All files with questions, in order of their names. Raises ValueError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of MME's tasks")
    files = sorted(folder.glob("*.txt"))
    for task in sorted(path for path in folder.iterdir() if path.is_dir()):
        apart = task / QUESTIONS
        files += sorted((apart if apart.is_dir() else task).glob("*.txt"))
    if not files:
        raise ValueError(f"{folder} has no tasks: neither TASK.txt nor TASK/*.txt")
    return files


def read_questions(folder: Path) -> list[Pair]:
    """The questions of MME's folder: TASK.txt with a line "image, question, answer" each, parted by
    tabs, or a folder a task with a text file beside each picture, "question, answer" a line.

    Raises ValueError for a task that is not MME's, a missing picture, a line of another form, an
    answer that is neither yes nor no, or a picture that has not two questions.
    """
    found: list[Pair] = []
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in files_of(folder):
        alone = file.parent == folder
        task = file.stem if alone else file.relative_to(folder).parts[0]
        if task not in PERCEPTION + COGNITION:
            known = ", ".join(PERCEPTION + COGNITION)
            raise ValueError(f"{file}: {task!r} is no task of MME, expected one of {known}")
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if not line.strip():
                continue
            place, parts = f"{file}, line {number}", line.rstrip("\r\n").split("\t")
            if len(parts) != 2 + alone:
                wanted = "image, question and answer" if alone else "question and answer"
                raise ValueError(f"{place}: expected {wanted} with tabs between, got {line!r:.60}")
            image = _image(folder / task, parts[0] if alone else file.stem, place)
            yes, earlier = yes_or_no(parts[-1], place), places[task, image.name]
            key = f"{task}/{image.name}/{len(earlier)}"
            earlier.append(place)
            question = f"{parts[-2].strip()} {ONE_WORD}"
            found.append(Pair(key, image, question, task, image.name, yes))
    for (task, picture), lines in places.items():
        if len(lines) != 2:
            raise ValueError(f"{lines[0]}: {task}/{picture} has {len(lines)} questions, expected 2")
    unique(((item.key, item.key) for item in found), "question")
    return found


def read_answer(said: str) -> bool | None:
    """MME's reading of an answer: what its first four letters say, None for neither."""
    begin = said.strip().lower()[:4]
    return True if "yes" in begin else False if "no" in begin else None


def score(right: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
    """Of (task, picture, answered rightly): for each task its "accuracy" and "accuracy_plus" in
    percent and their sum, "score"; "perception" and "cognition", the sums over their tasks."""
    tasks: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for task, picture, ok in right:
        tasks[task][picture].append(ok)
    found: dict[str, Any] = {}
    for task in PERCEPTION + COGNITION:
        if pictures := tasks.get(task):
            each = [ok for answers in pictures.values() for ok in answers]
            accuracy = 100 * sum(each) / len(each)
            plus = 100 * sum(all(answers) for answers in pictures.values()) / len(pictures)
            found[task] = {
                "n": len(each),
                "accuracy": accuracy,
                "accuracy_plus": plus,
                "score": accuracy + plus,
            }
    total = lambda names: sum(found[name]["score"] for name in names if name in found)  # noqa: E731
    return {"tasks": found, "perception": total(PERCEPTION), "cognition": total(COGNITION)}


def evaluate(model: LatentUM, questions: Sequence[Pair], features: str, run: Run) -> dict[str, Any]:
    """Asks all questions; writes and returns the run's results: `score` by features."""
    said = answer_all(questions, features, run, speaker(model, LONGEST_ANSWER))
    found = {
        way: score(
            [
                (q.task, q.picture, read_answer(a["said"]) == q.yes)
                for a, q in zip(answers, questions, strict=True)
            ]
        )
        for way, answers in said.items()
    }
    return run.finish({"features": found}, table(found))


def table(found: dict[str, Any]) -> str:
    """A Markdown table, a row a task, with three columns for each kind of features."""
    ways = list(found)
    head = ["MME", "questions"]
    head += [f"{name}, {way}" for way in ways for name in ("accuracy", "accuracy+", "score")]
    rows = []
    for task, first in found[ways[0]]["tasks"].items():
        cells = [found[way]["tasks"][task] for way in ways]
        names = ("accuracy", "accuracy_plus", "score")
        rows.append([task, str(first["n"]), *(f"{c[name]:.1f}" for c in cells for name in names)])
    for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        count = sum(task in tasks for task in found[ways[0]]["tasks"])
        label = f"{name} ({count} of {len(tasks)} tasks)"
        rows.append([label, "", *(x for way in ways for x in ("", "", f"{found[way][name]:.1f}"))])
    return markdown(head, rows)


def _image(task: Path, name: str, place: str) -> Path:
    """A picture by its name, which may lack its ending, beside the task's questions or apart."""
    for folder in (task / IMAGES, task, task.parent / IMAGES, task.parent):
        for ending in ("", *PICTURES, *(ending.upper() for ending in PICTURES)):
            file = folder / f"{name}{ending}"
            if file.is_file() and file.suffix.lower() in PICTURES:
                return file
    raise ValueError(f"{place}: there is no image {name} in {task} or {task / IMAGES}")
