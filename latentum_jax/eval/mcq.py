"""Questions with a few answers to choose from, in the forms of SEED-Bench, MMBench and MMMU.

A question is answered by the letter that the model finds likeliest to come first, or, where it is
left to speak, by the letter that it says.
"""

import ast
import base64
import binascii
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentum_jax import judge
from latentum_jax.data.pictures import PICTURES
from latentum_jax.eval.given import Record, field, read_records, unique
from latentum_jax.eval.runs import Run, markdown
from latentum_jax.eval.understanding import Asked, answer_all, speaker
from latentum_jax.images import ImageLike
from latentum_jax.pretrained import Features, LatentUM

BY_LETTER = "Answer with the option's letter from the given choices directly."
LONGEST_ANSWER = 32  # tokens
LETTERS = string.ascii_uppercase[:10]
_IMAGES = ("image", "image_1", "data_id")  # where a record may name its picture
_CATEGORIES = ("category", "question_type_id", "subfield", "subject")
_IDS = ("question_id", "index", "id")
_PLACE = re.compile(r"<image(?: \d+)?>")


@dataclass(frozen=True)
class Choice(Asked):
    """A question whose answer is one of `options`, the one at `correct`.

    name: of the question, which circular evaluation asks with its options in several orders.
    """

    name: str
    category: str
    options: tuple[str, ...]
    correct: int


@dataclass(frozen=True)
class Given:
    """The questions of a file, and why others of it are left out."""

    questions: list[Choice]
    left_out: dict[str, str]


def read_questions(file: Path, images: Path | None, *, circular: bool = False) -> Given:
    """The questions of a file of one of the three forms, JSON, JSONL or TSV.

    "question" (and "hint"); the options as "choice_a", ..., as "A", ..., or as the list "options";
    "answer", a letter; a picture as the name of a file in `images`, with or without its ending, or
    in base64; "category", "question_type_id", "subfield" or "subject". Questions of MMMU that are
    open or have several pictures are left out. `circular` asks each as often as it has options, in
    every rotation of these.

    Raises ValueError naming the file and the line that is not of this form.
    """
    records = read_records(file)
    pictures = {str(record.get("index")): record.get("image", "") for _, record in records}
    found, left_out, places = [], {}, []
    for number, (place, record) in enumerate(records):
        name = str(next((record[key] for key in _IDS if key in record), number))
        places.append((name, place))
        if reason := _unfit(record):
            left_out[name] = reason
            continue
        image = _picture(record, place, images, pictures)
        options, category = _options(record, place), _category(record)
        letters, answer = LETTERS[: len(options)], str(record.get("answer", "")).strip().upper()
        if len(answer) != 1 or answer not in letters:
            told = record.get("answer")
            raise ValueError(
                f"{place}: the answer is {told!r}, expected one of {', '.join(letters)}"
            )
        for shift in range(len(options) if circular else 1):
            turned = options[shift:] + options[:shift]
            question = _asked(field(record, place, "question", str), record.get("hint"), turned)
            correct = (letters.index(answer) - shift) % len(options)
            key = f"{name}/{shift}"
            found.append(Choice(key, image, question, name, category, turned, correct))
    unique(places, "question")
    if not found:
        raise ValueError(f"{file}: all {len(records)} questions are left out: {reason}")
    return Given(found, left_out)


def read_letter(said: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; None where it names none, or several.

    The letter it begins with ("B", "B. a dog", "(b)"), else the one letter that stands alone in it,
    else the one option whose words are in it.
    """
    letters = LETTERS[: len(options)]
    text = said.strip()
    if begin := re.match(rf"\(?([{letters}{letters.lower()}])(?:[).:,]|$)", text):
        return begin[1].upper()
    found = re.finditer(rf"(?<![\w'])([{letters}])(?![\w'])", text)
    # "A" and "I" may be words: they are letters before a stop, before "is" and at the end.
    ends = re.compile(r"[).:,]|\s*$| is\b")
    alone = {m[1] for m in found if m[1] not in "AI" or ends.match(text, m.end())}
    if len(alone) == 1:
        return alone.pop()
    named = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", text.lower())
    ]
    return named[0] if len(named) == 1 else None


def score(answered: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
    """Of (question, category, answered rightly): the share of questions answered rightly each time
    they are asked, "accuracy", and the same by category."""
    right: dict[str, list[bool]] = {}
    categories: dict[str, str] = {}
    for name, category, ok in answered:
        right.setdefault(name, []).append(ok)
        categories[name] = category
    found = {}
    for category in sorted(set(categories.values())):
        each = [all(oks) for name, oks in right.items() if categories[name] == category]
        found[category] = {"n": len(each), "accuracy": sum(each) / len(each)}
    whole = [all(oks) for oks in right.values()]
    return {"n": len(whole), "accuracy": sum(whole) / len(whole), "categories": found}


def evaluate(
    model: LatentUM, given: Given, features: str, run: Run, *, free: bool = False
) -> dict[str, Any]:
    """Asks all questions; writes and returns the run's results: `score` by features.

    `free` lets the model speak and reads the letter from what it says.
    """
    answer = speaker(model, LONGEST_ANSWER) if free else chooser(model)
    questions = given.questions
    found = {}
    for way, answers in answer_all(questions, features, run, answer).items():
        pairs = list(zip(answers, questions, strict=True))
        letters = [read_letter(a["said"], q.options) if free else a["letter"] for a, q in pairs]
        found[way] = score(
            [
                (q.name, q.category, letter == LETTERS[q.correct])
                for q, letter in zip(questions, letters, strict=True)
            ]
        )
    results = {"left_out": given.left_out, "features": found}
    return run.finish(results, table(found, given.left_out))


def chooser(model: LatentUM) -> Callable[[list[Choice], Features], list[dict[str, Any]]]:
    """An `answer` that keeps p of each option's letter as the first token, and the likeliest."""

    def answer(batch: list[Choice], way: Features) -> list[dict[str, Any]]:
        probes = [
            [judge.Probe.between(c.question, LETTERS[: len(c.options)], model.tokenizer)]
            for c in batch
        ]
        shown = model.look([choice.image for choice in batch], way)
        found = [p for [p] in judge.probabilities(model, shown, probes)]
        return [{"letter": LETTERS[int(np.argmax(p))], "p": p.tolist()} for p in found]

    return answer


def table(found: dict[str, Any], left_out: dict[str, str]) -> str:
    """A Markdown table, a row a category, with the accuracy by features in percent."""
    first = next(iter(found.values()))
    percent = lambda part: [f"{100 * part(f)['accuracy']:.1f}" for f in found.values()]  # noqa: E731
    rows = [
        [name, str(values["n"]), *percent(lambda f, name=name: f["categories"][name])]
        for name, values in first["categories"].items()
    ]
    rows.append(["all", str(first["n"]), *percent(lambda f: f)])
    text = markdown(["multiple choice", "questions", *found], rows)
    if left_out:
        name, reason = next(iter(left_out.items()))
        text += f"\n{len(left_out)} questions are left out; the first, {name}: {reason}\n"
    return text


def _asked(question: str, hint: Any, options: Sequence[str]) -> str:
    lines = [str(hint)] if hint else []
    lines.append(_PLACE.sub("", question).strip())
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*lines, BY_LETTER])


def _unfit(record: Record) -> str:
    """Why a question of MMMU cannot be asked, "" where it can."""
    if record.get("question_type") == "open":
        return "it is open"
    if record.get("image_2") or _PLACE.search(str(record.get("options", ""))):
        return "it has several pictures"
    return ""


def _options(record: Record, place: str) -> tuple[str, ...]:
    given = record.get("options")
    if isinstance(given, str):  # as MMMU writes a list
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f'{place}: "options" is {given!r:.60}, expected a list') from error
    if given is None:
        forms = (list(LETTERS), [f"choice_{letter.lower()}" for letter in LETTERS])
        form = next((form for form in forms if form[0] in record), ())
        named = [name for name in form if record.get(name) not in (None, "")]
        if named and named[-1][-1].upper() != LETTERS[len(named) - 1]:
            raise ValueError(f"{place}: options {', '.join(named)}, expected them without a gap")
        given = [record[name] for name in named]
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        raise ValueError(
            f"{place}: expected from 2 to {len(LETTERS)} options, as A, B, ..., as choice_a, "
            "choice_b, ... or as a list"
        )
    return tuple(str(option) for option in given)


def _category(record: Record) -> str:
    return str(next((record[name] for name in _CATEGORIES if record.get(name) is not None), "all"))


def _picture(
    record: Record, place: str, images: Path | None, pictures: dict[str, Any]
) -> ImageLike:
    """The picture of a record: a file, or the bytes of one that was in base64."""
    told = next((record[name] for name in _IMAGES if record.get(name)), None)
    if told is None:
        raise ValueError(f"{place}: there is no picture, under any of {', '.join(_IMAGES)}")
    told = str(told)
    if images is not None:
        for ending in ("", *PICTURES):
            if (file := images / f"{told}{ending}").is_file():
                return file
    told = str(pictures.get(told) or told)  # MMBench states a picture once and then its index
    if len(told) < 64:
        where = f"in {images}" if images is not None else "without --images"
        raise ValueError(f"{place}: there is no image {told} {where}")
    try:
        return base64.b64decode(told, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place}: the image is neither a file nor base64 ({error})") from error
