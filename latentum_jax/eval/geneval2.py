"""GenEval2: prompts of several atoms, each with its question about the picture (Soft-TIFA).

A question counts by how likely the judge is to say its answer; a prompt by the arithmetic (AM) or
geometric (GM) mean over its questions, the benchmark by 100 times the mean over prompts. The judge
is the model's own understanding branch, which reads the codes that it drew, or whoever gave
answers. The data, which are not free to pass on, are the user's own.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from tqdm import tqdm

from latentum_jax import judge
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.given import field, read_records, unique
from latentum_jax.eval.runs import Run, markdown
from latentum_jax.generate.prompt import show_codes
from latentum_jax.generate.sampling import Sampling
from latentum_jax.pretrained import LatentUM
from latentum_jax.tokenizer import Tokenizer

ONE_WORD = "Answer in one word."
BATCH = 8  # pictures, each with all its questions
DIGITS = "zero one two three four five six seven eight nine ten".split()
COUNTS = "how many"  # how a question begins that a digit answers too


@dataclass(frozen=True)
class Prompt:
    """A prompt, its (question, answer) pairs and the skill that each of them asks of the model;
    `atoms` is None where the data do not say."""

    text: str
    questions: tuple[tuple[str, str], ...]
    atoms: int | None
    skills: tuple[str, ...]


def read_prompts(file: Path) -> list[Prompt]:
    """The prompts of a file, {"prompt", "atom_count", "vqa_list", "skills"} a line; "vqa_list" has
    pairs [question, answer], or objects of both, "skills" one for each or none.

    Raises ValueError naming the line that is not of this form.
    """
    found = []
    for place, record in read_records(file):
        text = field(record, place, "prompt", str)
        questions = tuple(_pair(q, place) for q in field(record, place, "vqa_list", list))
        atoms = field(record, place, "atom_count", int) if "atom_count" in record else None
        skills = record.get("skills") or []
        if not isinstance(skills, list) or len(skills) not in (0, len(questions)):
            raise ValueError(
                f'{place}: "skills" is {skills!r:.80}, expected one for each of '
                f"{len(questions)} questions"
            )
        found.append(Prompt(text, questions, atoms, tuple(str(skill) for skill in skills)))
    return found


def read_answers(file: Path, prompts: Sequence[Prompt]) -> list[list[float]]:
    """Probabilities of right answers that another judge gave, {"prompt", "answers": [p, ...]} a
    line, in the order of the prompts and their questions.

    Raises ValueError where they do not fit the prompts, which must differ, or one is no
    probability.
    """
    unique(((prompt.text, f"entry {n} of the data") for n, prompt in enumerate(prompts)), "prompt")
    known = {prompt.text: prompt for prompt in prompts}
    found: dict[str, list[float]] = {}
    places = []
    for place, record in read_records(file):
        text, answers = field(record, place, "prompt", str), field(record, place, "answers", list)
        places.append((text, place))
        if text not in known:
            raise ValueError(f"{place}: the prompt {text!r:.80} is not in the data")
        if len(answers) != (count := len(known[text].questions)):
            raise ValueError(f"{place}: {len(answers)} answers to {count} questions")
        for p in answers:
            if not isinstance(p, int | float) or isinstance(p, bool) or not 0 <= p <= 1:
                raise ValueError(f"{place}: an answer is {p!r}, expected a probability")
        found[text] = [float(p) for p in answers]
    unique(places, "prompt")
    if missing := [text for text in known if text not in found]:
        raise ValueError(
            f"{file} has no answers for {len(missing)} prompts, such as {missing[0]!r}"
        )
    return [found[text] for text in known]


def variants(question: str, answer: str) -> tuple[str, ...]:
    """How an answer may be said: the word, capitalised, both with a space ahead, and of a count the
    digit too."""
    word = answer.strip()
    said = [word, word[:1].upper() + word[1:]]
    if question.strip().lower().startswith(COUNTS):
        if word.lower() in DIGITS:
            said.append(str(DIGITS.index(word.lower())))
        elif word.isdigit() and int(word) < len(DIGITS):
            name = DIGITS[int(word)]
            said += [name, name.capitalize()]
    said = list(dict.fromkeys(said))
    return (*said, *(f" {form}" for form in said))


def probe(question: str, answer: str, tokenizer: Tokenizer) -> judge.Probe:
    """The question as it is asked, and the first tokens of its answer's variants, each once.

    A token of nothing but space, with which a digit may begin, says nothing and is left out.
    """
    firsts = [tokenizer.encode(form)[0] for form in variants(question, answer)]
    said = tuple(token for token in dict.fromkeys(firsts) if tokenizer.decode([token]).strip())
    return judge.Probe(f"{question} {ONE_WORD}", (), said or (firsts[0],))


def judge_own(
    model: LatentUM,
    prompts: Sequence[Prompt],
    run: Run,
    *,
    guidance: float,
    sampling: Sampling,
    seed: int,
) -> list[list[float]]:
    """Draws an image of each prompt that the run has not finished, asks the model about its codes,
    and gives the probabilities of the right answers to all."""
    todo = [i for i in range(len(prompts)) if str(i) not in run.done]
    with tqdm(total=len(prompts), desc="geneval2", unit="prompt") as bar:
        bar.update(len(prompts) - len(todo))
        for batch, real in padded_batches(todo, max(1, min(BATCH, len(todo)))):
            seeds = [(seed + number) % 2**32 for number in batch]
            texts = [prompts[number].text for number in batch]
            options = {"guidance": guidance, "sampling": sampling, "seeds": seeds}
            codes = model.generate(texts, **options)
            shown = show_codes(model.model, model.params, jnp.asarray(codes))
            probes = [
                [probe(*pair, model.tokenizer) for pair in prompts[number].questions]
                for number in batch
            ]
            found = judge.probabilities(model, shown, probes)
            run.add(
                {
                    "key": str(number),
                    "prompt": prompts[number].text,
                    "answers": [min(1.0, float(p.sum())) for p in answers],
                    "codes": drawn.tolist(),
                }
                for number, answers, drawn in list(zip(batch, found, codes, strict=True))[:real]
            )
            bar.update(real)
    return [run.done[str(i)]["answers"] for i in range(len(prompts))]


def arithmetic(answers: Sequence[float]) -> float:
    """Soft-TIFA AM of a prompt."""
    return sum(answers) / len(answers)


def geometric(answers: Sequence[float]) -> float:
    """Soft-TIFA GM of a prompt; 0 where one of its questions is."""
    if min(answers) <= 0:
        return 0.0
    return math.exp(sum(math.log(p) for p in answers) / len(answers))


def score(prompts: Sequence[Prompt], answers: Sequence[Sequence[float]]) -> dict[str, Any]:
    """AM and GM of the benchmark and by number of atoms, in percent, and the mean probability of
    the right answer by skill."""
    atoms: dict[str, list[Sequence[float]]] = defaultdict(list)
    skills: dict[str, list[float]] = defaultdict(list)
    for prompt, found in zip(prompts, answers, strict=True):
        if prompt.atoms is not None:
            atoms[str(prompt.atoms)].append(found)
        for skill, p in zip(prompt.skills, found, strict=bool(prompt.skills)):
            skills[skill].append(p)
    return {
        **_means(answers),
        "atoms": {name: _means(atoms[name]) for name in sorted(atoms, key=int)},
        "skills": {
            name: {"n": len(skills[name]), "mean": 100 * arithmetic(skills[name])}
            for name in sorted(skills)
        },
    }


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table: by number of atoms, all prompts, then by skill."""
    parts = [*((f"{n} atoms", found) for n, found in results["atoms"].items()), ("all", results)]
    rows = [[name, str(f["n"]), f"{f['am']:.1f}", f"{f['gm']:.1f}"] for name, f in parts]
    text = markdown(["GenEval2", "prompts", "Soft-TIFA AM", "GM"], rows)
    if skills := results["skills"]:
        rows = [[name, str(found["n"]), f"{found['mean']:.1f}"] for name, found in skills.items()]
        text += "\n" + markdown(["skill", "questions", "mean"], rows)
    return text


def _means(answers: Sequence[Sequence[float]]) -> dict[str, Any]:
    mean = lambda of: 100 * arithmetic([of(found) for found in answers])  # noqa: E731
    return {"n": len(answers), "am": mean(arithmetic), "gm": mean(geometric)}


def _pair(given: Any, place: str) -> tuple[str, str]:
    match given:
        case [str(question), str() | int() as answer, *_]:
            pass
        case {"question": str(question), "answer": str() | int() as answer}:
            pass
        case _:
            raise ValueError(
                f'{place}: an entry of "vqa_list" is {given!r:.80}, expected [question, answer]'
            )
    if not question.strip() or not str(answer).strip():
        raise ValueError(f'{place}: an entry of "vqa_list" has no words: {given!r:.80}')
    return question, str(answer)
