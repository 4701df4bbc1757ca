"""A small grammar of prompts: what is to be seen, with which attributes, and how it stands.

    prompt   := [frame] thing (joint thing)*
    frame    := "a photo of", "an image of", "there is", ...
    joint    := "and" | "," | "with" | relation       (a relation joins the things beside it)
    relation := ["that is"] ("left of" | "on top of" | ... | verb + "ing" [preposition] | "held by")
    thing    := [article | count] (colour | material | pattern)* noun

That covers the six forms of GenEval and prompts in the style of GenEval2. Nouns are open, up to
three words; what is no thing, or leaves words over, is refused.
"""

import dataclasses
import re

from latentum_jax.rl.nouns import KNOWN, MASS, PAIRS, is_plural, plural, singular

COLOURS = tuple("red orange yellow green blue purple pink brown black white".split())
MATERIALS = tuple("wood metal glass plastic stone leather paper ceramic rubber fabric".split())
PATTERNS = tuple("striped spotted checkered plaid floral plain".split())
COUNTS = tuple("zero one two three four five six seven eight nine ten".split())

_OTHER_NAMES = {
    "grey": ("colour", "gray"),
    "gray": ("colour", "gray"),
    "beige": ("colour", "beige"),
    "silver": ("colour", "silver"),
    "gold": ("colour", "gold"),
    "golden": ("colour", "gold"),
    "wooden": ("material", "wood"),
    "metallic": ("material", "metal"),
    "porcelain": ("material", "ceramic"),
    "cloth": ("material", "fabric"),
    "stripy": ("pattern", "striped"),
    "dotted": ("pattern", "spotted"),
    "polka-dot": ("pattern", "spotted"),
    "polka-dotted": ("pattern", "spotted"),
    "checked": ("pattern", "checkered"),
}
ATTRIBUTES = {
    **{name: ("colour", name) for name in COLOURS},
    **{name: ("material", name) for name in MATERIALS},
    **{name: ("pattern", name) for name in PATTERNS},
    **_OTHER_NAMES,
}

DIRECTIONS = {
    "left of": "left of",
    "to the left of": "left of",
    "on the left of": "left of",
    "on the left side of": "left of",
    "right of": "right of",
    "to the right of": "right of",
    "on the right of": "right of",
    "on the right side of": "right of",
    "above": "above",
    "below": "below",
}
_PLACES = """
    in front of, behind, on top of, on, in, inside, inside of, under, underneath, beneath, next to,
    beside, near, close to, over, across from, against, around, between, at, along, through, toward,
    towards, into, onto, from, to, off, past, away from
"""
PREPOSITIONS = sorted(
    [*DIRECTIONS, *(place.strip() for place in _PLACES.replace("\n", " ").split(","))],
    key=lambda phrase: -len(phrase.split()),
)
_JOINTS = (",", "and", "with")
_ARTICLES = ("a", "an", "the", "some")
_BY = ("held", "ridden", "worn", "eaten", "driven", "drawn", "thrown", "caught", "hit", "led")
_FRAME = re.compile(
    r"(?:(?:(?:a|an|the) )?(?:\w+ )?"
    r"(?:photo|photograph|picture|image|painting|drawing|illustration|rendering) of"
    r"|there (?:is|are)) "
)
# Nouns of none of these can be looked for in a picture.
_NO_NOUN = frozenset(
    "left right top bottom front back side background foreground middle center centre corner of "
    "is are be was were has have that which who while it its his her their he she they not no "
    "without several many few lots both each every all another other more less or but as than "
    "very eleven twelve dozen hundred".split()
)


@dataclasses.dataclass(frozen=True)
class Thing:
    """A noun phrase: `noun` in the singular; `count` None where an article leaves it open; `many`
    where it is spoken of in the plural; `attributes` (kind, value) in their order."""

    noun: str
    count: int | None
    many: bool
    attributes: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The noun in its number."""
        return plural(self.noun) if self.many else self.noun

    @property
    def full_name(self) -> str:
        """The same with its attributes, "red wooden chairs"."""
        return " ".join([*(value for _, value in self.attributes), self.name])


@dataclasses.dataclass(frozen=True)
class Scene:
    """The things of a prompt, and relations (subject, words, object) between them by number."""

    things: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...]


def parse(prompt: str) -> Scene:
    """What a prompt asks for. Raises ValueError where it does not have the form above."""
    words = _words(prompt)
    things: list[Thing] = []
    relations: list[tuple[int, str, int]] = []
    try:
        at, relation = 0, None
        while True:
            thing, at = _thing(words, at)
            things.append(thing)
            if relation:
                relations.append((len(things) - 2, relation, len(things) - 1))
            if at == len(words):
                return Scene(tuple(things), tuple(relations))
            relation, at = _joint(words, at)
    except ValueError as error:
        raise ValueError(f"the prompt {prompt!r} cannot be taken apart: {error}") from None


def _words(prompt: str) -> list[str]:
    text = " ".join(prompt.lower().split()).removesuffix(".")
    text = _FRAME.sub("", text, count=1) if _FRAME.match(text) else text
    text = text.replace("polka dot", "polka-dot")
    if odd := re.search(r"[^a-z0-9,'\- ]", text):
        raise ValueError(f"the prompt {prompt!r} cannot be taken apart: it holds {odd[0]!r}")
    return re.findall(r",|[a-z0-9'\-]+", text)


def _thing(words: list[str], begin: int) -> tuple[Thing, int]:
    """The noun phrase that begins there, and where it ends."""
    first = words[begin] if begin < len(words) else None
    count = _count(first) if first else None
    determined = count is not None or first in _ARTICLES
    start = begin + determined
    end = start
    while end < len(words) and words[end] not in _JOINTS:
        if end > start and _relation(words, end):
            break
        end += 1
    given = words[start:end]
    if not given:
        before = " ".join(words[:start])
        raise ValueError(f"a thing was expected after {before!r}" if before else "it is empty")
    attributes, noun = _noun(given)
    one = singular(noun)
    many = one in PAIRS or (is_plural(noun) if count is None else count > 1)
    if not determined and not is_plural(noun) and one not in MASS:
        raise ValueError(f"{' '.join(given)!r} has neither an article nor a number")
    return Thing(one, count, many, attributes), end


def _count(word: str) -> int | None:
    """The number that a word says, None for other words. Raises ValueError outside 1 to 10."""
    if word.isdigit():
        number = int(word)
    elif word in COUNTS:
        number = COUNTS.index(word)
    else:
        return None
    if not 1 <= number <= 10:
        raise ValueError(f"counts go from 1 to 10, got {word}")
    return number


def _noun(words: list[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Attributes and the noun behind them, in which "wine glass" holds no material."""
    tail = next(
        (i for i in range(len(words)) if singular(" ".join(words[i:])) in KNOWN), len(words) - 1
    )
    before, noun = words[:tail], words[tail:]
    attributes = [ATTRIBUTES[word] for word in before if word in ATTRIBUTES]
    noun = [word for word in before if word not in ATTRIBUTES] + noun
    name = " ".join(noun)
    if len({kind for kind, _ in attributes}) < len(attributes):
        raise ValueError(f"{' '.join(words)!r} has two attributes of one kind")
    if bad := [word for word in noun if word in _NO_NOUN or word in _ARTICLES or _number(word)]:
        raise ValueError(f"{bad[0]!r} is no part of a noun")
    if name in ATTRIBUTES and name not in KNOWN:
        raise ValueError(f"{name!r} is no noun")
    if len(noun) > 3:
        raise ValueError(f"{name!r} is too long for a noun")
    return tuple(attributes), name


def _number(word: str) -> bool:
    return word.isdigit() or word in COUNTS


def _joint(words: list[str], at: int) -> tuple[str | None, int]:
    """The relation between two things, None where they stand side by side, and where it ends."""
    if words[at] not in _JOINTS:
        found = _relation(words, at)
        assert found is not None  # else the thing had gone on
        return found
    comma_and = words[at : at + 2] == [",", "and"]
    return None, at + (2 if comma_and else 1)


def _relation(words: list[str], at: int) -> tuple[str, int] | None:
    """A preposition, or a verb with or without one, that begins there; and where it ends."""
    begin = at
    begin += words[begin : begin + 1] in (["that"], ["which"], ["who"])
    begin += words[begin : begin + 1] in (["is"], ["are"])
    word = words[begin] if begin < len(words) else ""
    place = _preposition(words, begin)
    if place:
        return DIRECTIONS.get(place, place), begin + len(place.split())
    if word.endswith("ing") and word not in KNOWN and not _noun_goes_on(words, begin):
        place = _preposition(words, begin + 1)
        return " ".join([word, place]).strip(), begin + 1 + len(place.split())
    if (word.endswith("ed") or word in _BY) and words[begin + 1 : begin + 2] == ["by"]:
        return f"{word} by", begin + 2
    return None


def _noun_goes_on(words: list[str], at: int) -> bool:
    """Whether a noun such as "dining table" begins there."""
    return singular(" ".join(words[at : at + 2])) in KNOWN


def _preposition(words: list[str], at: int) -> str:
    """The longest one that begins there, "" for none."""
    for phrase in PREPOSITIONS:
        parts = phrase.split()
        if words[at : at + len(parts)] == parts:
            return phrase
    return ""
