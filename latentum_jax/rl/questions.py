"""A prompt as atomic multiple-choice questions about its picture (section 3.3, appendix B.1)."""

import collections
import dataclasses
import string
from collections.abc import Iterable, Sequence

from latentum_jax.rl.nouns import MASS
from latentum_jax.rl.prompts import COLOURS, MATERIALS, PATTERNS, Scene, Thing, parse

INSTRUCTION = "Answer the following question with the given option only."
VALID = (
    "Valid means the object is clearly visible, complete and not partially occluded by other "
    "objects and contains no artifacts."
)
COUNTS = tuple(str(count) for count in range(11))
YES_NO = ("yes", "no")
_DIRECTIONS = ("left of", "right of", "above", "below")
_DEPTHS = ("in front of", "behind")
_ATTRIBUTES = {
    "colour": (COLOURS, "What color {be} the {name}?"),
    "material": (MATERIALS, "What {be} the {name} made of?"),
    "pattern": (PATTERNS, "What pattern {do} the {name} have?"),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question whose answer is one of a few.

    kind: existence, count, colour, material, pattern, relation; those of mazes in `rl.maze`.
    text: as asked, with the choices spelled out where options are letters.
    options: what the answer may go on with after `prefix`; they differ in the first token that is
      not common to all.
    correct: index into options.
    prefix: words that the answer begins with whichever option is right.
    """

    kind: str
    text: str
    options: tuple[str, ...]
    correct: int
    prefix: str = ""


def decompose(prompt: str) -> tuple[Question, ...]:
    """Questions that are all answered rightly where a picture shows what the prompt says.

    Of each thing its number, or where an article leaves that open whether it is there at all; its
    colour, material and pattern; then the relations between things. Things of one noun, "a red dog
    and a blue dog", are told apart by their attributes, which are then part of the first question.

    Raises ValueError where the prompt cannot be parsed (see `rl.prompts`), or names a thing twice
    with nothing to tell the two apart.
    """
    scene = parse(prompt)
    nouns = collections.Counter(thing.noun for thing in scene.things)
    names = [t.name if nouns[t.noun] == 1 else t.full_name for t in scene.things]
    alike = [(t.noun, t.attributes) for t in scene.things]
    if twice := [thing for thing, count in collections.Counter(alike).items() if count > 1]:
        raise ValueError(
            f"the prompt {prompt!r} names {twice[0][0]!r} twice, with nothing to tell them apart"
        )
    questions = []
    for thing, name in zip(scene.things, names, strict=True):
        questions.append(_presence(thing, name))
        if nouns[thing.noun] == 1:
            questions += [_attribute(thing, name, *attribute) for attribute in thing.attributes]
    return (*questions, *_relations(scene, names))


@dataclasses.dataclass(frozen=True)
class Decomposed:
    """Questions of the prompts that could be parsed, and of all others the reason why not."""

    questions: dict[str, tuple[Question, ...]]
    refused: dict[str, str]

    def report(self) -> str:
        """How many prompts were parsed, and the reason for each that was not."""
        total = len(self.questions) + len(self.refused)
        head = f"{len(self.questions)} of {total} prompts taken apart into questions"
        return "\n".join([head, *self.refused.values()])


def decompose_all(prompts: Iterable[str]) -> Decomposed:
    """`decompose` of each different prompt, those that cannot be parsed put aside."""
    questions, refused = {}, {}
    for prompt in dict.fromkeys(prompts):
        try:
            questions[prompt] = decompose(prompt)
        except ValueError as error:
            refused[prompt] = str(error)
    return Decomposed(questions, refused)


def multiple_choice(kind: str, question: str, choices: Sequence[str], right: str) -> Question:
    """A question that is answered by the letter of one of the choices."""
    letters = tuple(string.ascii_uppercase[: len(choices)])
    listed = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    text = "\n".join([f"{INSTRUCTION} {question}", *listed])
    return Question(kind, text, letters, tuple(choices).index(right))


def _presence(thing: Thing, name: str) -> Question:
    if thing.count is None:
        question = f"{_there_is(thing, name)} in the image?"
        return multiple_choice("existence", question, YES_NO, "yes")
    many = dataclasses.replace(thing, many=True)
    name = many.name if name == thing.name else many.full_name
    question = f"How many valid {name} are there in the image? {VALID}"
    return multiple_choice("count", question, COUNTS, str(thing.count))


def _attribute(thing: Thing, name: str, kind: str, value: str) -> Question:
    """About one of ten colours, ten materials or six patterns, and others where they are asked."""
    choices, question = _ATTRIBUTES[kind]
    choices = choices if value in choices else (*choices, value)
    words = {"be": "are", "do": "do"} if thing.many else {"be": "is", "do": "does"}
    return multiple_choice(kind, question.format(name=name, **words), choices, value)


def _relations(scene: Scene, names: Sequence[str]) -> list[Question]:
    found = []
    for subject, relation, other in scene.relations:
        be = "are" if scene.things[subject].many else "is"
        first, second = f"the {names[subject]}", f"the {names[other]}"
        for choices in (_DIRECTIONS, _DEPTHS):
            if relation in choices:
                question = f"Where {be} {first} relative to {second}?"
                found.append(multiple_choice("relation", question, choices, relation))
                break
        else:
            question = f"{be.capitalize()} {first} {relation} {second}?"
            found.append(multiple_choice("relation", question, YES_NO, "yes"))
    return found


def _there_is(thing: Thing, name: str) -> str:
    if thing.many:
        return f"Are there {name}"
    if thing.noun in MASS:
        return f"Is there {name}"
    vowel = name[0] in "aeiou" and not name.startswith(("uni", "one", "euro"))
    return f"Is there {'an' if vowel else 'a'} {name}"
