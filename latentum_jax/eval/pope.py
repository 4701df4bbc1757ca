"""POPE: does a model see things that are not there? Yes-or-no questions, half of them about objects
that are in no picture: random ones, popular ones, and those that often come with what there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentum_jax.eval.given import field, image_file, read_records, unique, yes_or_no
from latentum_jax.eval.runs import Run, markdown
from latentum_jax.eval.understanding import ONE_WORD, Asked, answer_all, speaker
from latentum_jax.pretrained import LatentUM

CATEGORIES = ("random", "popular", "adversarial")
LONGEST_ANSWER = 32  # tokens
FIGURES = ("accuracy", "precision", "recall", "f1", "yes")


@dataclass(frozen=True)
class Object(Asked):
    """A question whether an object is in a picture, and whether it is."""

    category: str
    present: bool


def read_questions(files: Sequence[Path], images: Path) -> list[Object]:
    """The questions of POPE's files, {"question_id", "image", "text", "label"} an object; each
    file's category is its "category", or that in the file's name.

    Raises ValueError naming the file and the line that is not of this form.
    """
    found, places = [], []
    for file in files:
        stem = file.stem.lower()
        named = next((name for name in CATEGORIES if name in stem), file.stem)
        for place, record in read_records(file):
            category = record.get("category", named)
            if "question_id" not in record:
                raise ValueError(f'{place}: the key "question_id" is missing')
            text = field(record, place, "text", str)
            image = image_file(images, field(record, place, "image", str), place)
            key = f"{category}/{record['question_id']}"
            present = yes_or_no(field(record, place, "label", str), place)
            found.append(Object(key, image, f"{text}\n{ONE_WORD}", category, present))
            places.append((key, place))
    unique(places, "question")
    return found


def says_yes(said: str) -> bool:
    """POPE's reading of an answer: of its first sentence, no where one of the words is No, no or
    not, else yes."""
    words = said.split(".")[0].replace(",", "").split()
    return not {"No", "no", "not"} & set(words)


def score(pairs: Sequence[tuple[bool, bool]]) -> dict[str, int | float]:
    """Of (answered yes, yes is right): accuracy, precision, recall and F1 of yes (0 where there is
    nothing to divide by), and the share of answers that are yes."""
    hits = sum(said and true for said, true in pairs)
    said_yes, is_yes = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    precision = hits / said_yes if said_yes else 0.0
    recall = hits / is_yes if is_yes else 0.0
    both = precision + recall
    return {
        "n": len(pairs),
        "accuracy": sum(said == true for said, true in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
        "yes": said_yes / len(pairs),
    }


def evaluate(
    model: LatentUM, questions: Sequence[Object], features: str, run: Run
) -> dict[str, Any]:
    """Asks all questions; writes and returns the run's results.

    Under the features' names are the figures of `score` for each category and their unweighted
    "mean".
    """
    said = answer_all(questions, features, run, speaker(model, LONGEST_ANSWER))
    found = {}
    for way, answers in said.items():
        read = [(says_yes(a["said"]), q.present) for a, q in zip(answers, questions, strict=True)]
        names = list(dict.fromkeys(q.category for q in questions))
        of = {
            name: score([p for p, q in zip(read, questions, strict=True) if q.category == name])
            for name in names
        }
        mean = {name: sum(f[name] for f in of.values()) / len(of) for name in FIGURES}
        found[way] = {"categories": of, "mean": {"n": len(questions), **mean}}
    return run.finish({"features": found}, table(found))


def table(found: dict[str, Any]) -> str:
    """A Markdown table, a row for each category and kind of features, in percent."""
    rows = []
    for way, values in found.items():
        for name, figures in [*values["categories"].items(), ("mean", values["mean"])]:
            cells = [f"{100 * figures[figure]:.1f}" for figure in FIGURES]
            rows.append([f"{name}, {way}", str(figures["n"]), *cells])
    return markdown(["POPE", "questions", "accuracy", "precision", "recall", "F1", "yes"], rows)
