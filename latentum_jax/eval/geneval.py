"""GenEval: are the things of a prompt in its pictures, as many, so coloured and placed as it says?

Pictures are drawn into the layout that its own evaluation reads, NNNNN/metadata.jsonl and
NNNNN/samples/0000.png, ...; what a detector saw in them is scored by its rules (arXiv 2310.11513).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.codes import write_codes
from latentum_jax.eval.frames import write_pictures
from latentum_jax.eval.given import Record, field, read_records, unique
from latentum_jax.eval.runs import Run, markdown
from latentum_jax.files import write_text
from latentum_jax.generate.sampling import Sampling
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM

SAMPLING = Sampling(temperature=0.5, top_k=32, top_p=0.95)  # of the paper's benchmarks
GUIDANCE = 3.0
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
POSITIONS = ("left of", "right of", "above", "below")
BATCH = 16  # pictures drawn at once, or those of one prompt where they are more
SURE, SURE_TO_COUNT = 0.3, 0.9  # least scores of a detection that counts
MOST_OBJECTS = 16  # of a class
SLACK, ALONG = 0.1, 0.5  # of boxes' sizes; least part of an offset along an axis

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Clause:
    """At least `count` things of a class, of a colour, placed against the things of another clause:
    ("left of", 0)."""

    name: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt and what its pictures must show (`include`) and not show (`exclude`); `given` is the
    record that says so."""

    tag: str
    text: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Thing:
    """What a detector saw: a class in a box (left, top, right, bottom), and the box's colour."""

    name: str
    box: Box
    score: float = 1.0
    colour: str | None = None


def read_prompts(file: Path) -> list[Prompt]:
    """Prompts in GenEval's form, {"tag", "include", "exclude"?, "prompt"} a line.

    Raises ValueError naming the line that is not of it, or whose tag is not one of the six.
    """
    found = []
    for place, record in read_records(file):
        tag = field(record, place, "tag", str)
        if tag not in TAGS:
            raise ValueError(f"{place}: the tag is {tag!r}, expected one of {', '.join(TAGS)}")
        include = _clauses(field(record, place, "include", list), place)
        exclude = _clauses(record.get("exclude") or [], place)
        for number, clause in enumerate(include):
            if clause.position and not 0 <= clause.position[1] < number:
                raise ValueError(
                    f"{place}: {clause.name!r} is placed against entry {clause.position[1]} of "
                    f'"include", expected one before its own, {number}'
                )
        text = field(record, place, "prompt", str)
        found.append(Prompt(tag, text, include, exclude, record))
    return found


def read_detections(file: Path) -> dict[str, list[Thing]]:
    """What was seen in each picture: {"image": "00000/samples/0000.png", "objects": [{"class",
    "box": [left, top, right, bottom], "score"?, "color"?}]} a line.

    Raises ValueError naming the line that is not of this form, or a picture that is there twice.
    """
    found, places = {}, []
    for place, record in read_records(file):
        image = field(record, place, "image", str)
        places.append((image, place))
        if not isinstance(record.get("objects"), list):
            raise ValueError(f'{place}: "objects" is missing or no list')
        found[image] = [_thing(thing, place) for thing in record["objects"]]
    unique(places, "image")
    return found


def image_name(prompt: int, sample: int) -> str:
    """A picture's place in the official layout."""
    return f"{prompt:05}/samples/{sample:04}.png"


def draw(
    model: LatentUM,
    decoder: PixelDecoder,
    prompts: Sequence[Prompt],
    run: Run,
    *,
    samples: int,
    guidance: float,
    sampling: Sampling,
    steps: int,
    seed: int,
) -> None:
    """Draws `samples` pictures of each prompt that the run has not finished, and keeps their codes
    beside them; a picture depends on the seed and on its place alone."""
    todo = [i for i in range(len(prompts)) if str(i) not in run.done]
    at_once = max(1, min(BATCH // samples, len(todo)))
    with tqdm(total=len(prompts), desc="geneval", unit="prompt") as bar:
        bar.update(len(prompts) - len(todo))
        for batch, real in padded_batches(todo, at_once):
            rows = [(number, sample) for number in batch for sample in range(samples)]
            seeds = [(seed + number * samples + sample) % 2**32 for number, sample in rows]
            texts = [prompts[number].text for number, _ in rows]
            options = {"guidance": guidance, "sampling": sampling, "seeds": seeds}
            codes = model.generate(texts, **options)
            pictures = decoder.decode(model.z_q(codes), steps=steps, seeds=seeds)
            for place, number in enumerate(batch[:real]):
                own = slice(place * samples, (place + 1) * samples)
                folder = run.out / f"{number:05}"
                write_pictures(folder / "samples", pictures[own])
                write_codes(folder / "codes.npz", codes[own], texts[own])
                told = json.dumps(prompts[number].given, ensure_ascii=False)
                write_text(folder / "metadata.jsonl", told)
                run.add([{"key": str(number), "prompt": prompts[number].text}])
            bar.update(real)


def evaluate(
    prompts: Sequence[Prompt], detections: Mapping[str, Sequence[Thing]], samples: int
) -> dict[str, Any]:
    """GenEval's figures: of each tag the share of its pictures that are right, "score", their
    unweighted mean, and of every picture whether it is right and why not, "images".

    Pictures of which there are no detections count for nothing and are named under "missing".

    Raises ValueError where there are detections of none, or of a picture that no prompt has.
    """
    names = {image_name(i, j): i for i in range(len(prompts)) for j in range(samples)}
    if unknown := [name for name in detections if name not in names]:
        raise ValueError(
            f"detections of {unknown[0]!r}: {len(prompts)} prompts of {samples} pictures have none "
            f"of that name, such as {image_name(0, 0)!r}"
        )
    images, missing = [], [name for name in names if name not in detections]
    for name, number in names.items():
        if name in detections:
            prompt = prompts[number]
            wrong = faults(prompt, detections[name])
            images.append({"image": name, "tag": prompt.tag, "correct": not wrong, "why": wrong})
    if not images:
        raise ValueError("there are detections of no picture of these prompts")
    tags = {}
    for tag in TAGS:
        if right := [image["correct"] for image in images if image["tag"] == tag]:
            tags[tag] = {"n": len(right), "accuracy": sum(right) / len(right)}
    score = sum(tag["accuracy"] for tag in tags.values()) / len(tags)
    return {"tags": tags, "score": score, "missing": missing, "images": images}


def faults(prompt: Prompt, things: Sequence[Thing]) -> list[str]:
    """What is wrong with a picture in which these things were seen; nothing where it is right.

    Of each class the surest things count, those that are sure enough (more so where things are to
    be counted). An included clause needs `count` of them, all of these in its colour, and each of
    them placed as it says against each that the other clause found; an excluded one needs fewer
    than `count`, so that a number is met exactly where one more is excluded.
    """
    least = SURE_TO_COUNT if prompt.tag == "counting" else SURE
    sure = sorted((t for t in things if t.score > least), key=lambda t: -t.score)
    of = lambda name: [t for t in sure if t.name == name][:MOST_OBJECTS]  # noqa: E731
    wrong: list[str] = []
    groups: list[list[Thing]] = []  # what each clause found; nothing where it is not met
    for clause in prompt.include:
        found = of(clause.name)[: clause.count]
        fault = _unmet(clause, found, groups)
        wrong += [fault] if fault else []
        groups.append([] if fault else found)
    for clause in prompt.exclude:
        if (count := len(of(clause.name))) >= clause.count:
            wrong.append(f"{count} {clause.name}, expected fewer than {clause.count}")
    return wrong


def positions(first: Box, second: Box) -> set[str]:
    """Where the first box is relative to the second: none, one or two of `POSITIONS`.

    The offset of the centres is lessened, axis by axis, by a tenth of both boxes' sizes; what is
    left of it along an axis must be more than half of the whole offset.
    """
    offset, left = [], []
    for axis in (0, 1):
        centres = [(box[axis] + box[axis + 2]) / 2 for box in (first, second)]
        sizes = sum(abs(box[axis + 2] - box[axis]) for box in (first, second))
        offset.append(centres[0] - centres[1])
        left.append(math.copysign(max(abs(offset[-1]) - SLACK * sizes, 0), offset[-1]))
    if max(map(abs, left)) < 1e-3:
        return set()
    x, y = (part / math.hypot(*offset) for part in left)
    said = ((x < -ALONG), (x > ALONG), (y < -ALONG), (y > ALONG))
    return {name for name, true in zip(POSITIONS, said, strict=True) if true}


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table, a row a tag, in percent."""
    rows = [
        [tag, str(found["n"]), f"{100 * found['accuracy']:.1f}"]
        for tag, found in results["tags"].items()
    ]
    rows.append(["mean over tags", str(len(results["images"])), f"{100 * results['score']:.1f}"])
    text = markdown(["GenEval", "pictures", "right"], rows)
    if missing := results["missing"]:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        total = len(missing) + len(results["images"])
        text += (
            f"\nof {total} pictures {len(missing)} have no detections and do not count: {named}\n"
        )
    return text


def _unmet(clause: Clause, found: Sequence[Thing], groups: Sequence[Sequence[Thing]]) -> str:
    """Why a clause is not met by the things found for it, "" where it is."""
    if len(found) < clause.count:
        return f"{len(found)} {clause.name}, expected {clause.count}"
    if clause.colour is not None:
        count = sum(thing.colour == clause.colour for thing in found)
        if count < clause.count:
            return f"{count} {clause.colour} {clause.name}, expected {clause.count}"
    if clause.position is not None:
        where, target = clause.position
        if not groups[target]:
            return f"nothing for {clause.name} to be {where}"
        for thing in found:
            for other in groups[target]:
                if where not in (seen := positions(thing.box, other.box)):
                    told = " and ".join(sorted(seen)) or "nowhere"
                    return f"{clause.name} {told} {other.name}, expected {where}"
    return ""


def _clauses(given: Sequence[Any], place: str) -> tuple[Clause, ...]:
    found = []
    for clause in given:
        if not isinstance(clause, dict):
            raise ValueError(f"{place}: expected objects of class and count, got {clause!r:.60}")
        name, count = field(clause, place, "class", str), field(clause, place, "count", int)
        if count < 1:
            raise ValueError(f"{place}: the count of {name!r} is {count}, expected at least 1")
        found.append(Clause(name, count, clause.get("color"), _position(clause, place)))
    return tuple(found)


def _position(clause: Record, place: str) -> tuple[str, int] | None:
    given = clause.get("position")
    if given is None:
        return None
    match given:
        case [str(where), int(target)] if where in POSITIONS:
            return where, target
    raise ValueError(
        f"{place}: the position is {given!r}, expected one of {', '.join(POSITIONS)} and the "
        'number of an entry of "include"'
    )


def _thing(given: Any, place: str) -> Thing:
    match given:
        case {"class": str(name), "box": [_, _, _, _] as box} if all(_number(x) for x in box):
            score = given.get("score", 1.0)
            if not _number(score):
                raise ValueError(f"{place}: the score of {name!r} is {score!r}, expected a number")
            return Thing(name, tuple(float(x) for x in box), float(score), given.get("color"))
    raise ValueError(
        f'{place}: an object is {{"class", "box": [left, top, right, bottom]}}, got {given!r:.80}'
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
