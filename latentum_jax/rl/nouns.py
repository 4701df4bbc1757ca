"""Names of things, one and many: the 80 of COCO as GenEval writes them, and English rules."""

COCO = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
# Others in which a word looks like an attribute, a verb or a plural and is none.
MORE = """
    glass, orange juice, glass bottle, metal detector, paper towel, washing machine,
    swimming pool, cutting board, building, painting, ring, earring, ceiling, pudding, king, wing,
    string, spring, swing, clothing, canvas, walrus, octopus, hippopotamus, platypus, gas, lens
"""
IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "knife": "knives",
    "wife": "wives",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "wolf": "wolves",
    "calf": "calves",
    "scarf": "scarves",
    "elf": "elves",
    "bus": "buses",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "cactus": "cacti",
    "quiz": "quizzes",
    "cookie": "cookies",
    "movie": "movies",
    "taxi": "taxis",
}
UNCHANGED = ("sheep", "fish", "deer", "moose", "bison", "aircraft", "shrimp", "salmon")
PAIRS = ("skis", "scissors", "pants", "jeans", "shorts", "trousers", "sunglasses")
MASS = ("broccoli", "water", "grass", "bread", "rice", "cheese", "snow", "sand", "clothing")

KNOWN = frozenset(name.strip() for name in f"{COCO},{MORE}".replace("\n", " ").split(","))
_SINGULAR = {many: one for one, many in IRREGULAR.items()}
_ENDS_IN_S = frozenset(name for name in KNOWN if name.endswith("s"))


def plural(noun: str) -> str:
    """Of a noun in the singular, of which the last word changes: "wine glasses", "people"."""
    *first, last = noun.split()
    return " ".join([*first, _plural(last)])


def singular(noun: str) -> str:
    """Of a noun in either number; GenEval's regular "knifes", "benchs", "sheeps" are known too."""
    *first, last = noun.split()
    return " ".join([*first, _singular(last)])


def is_plural(noun: str) -> bool:
    """Whether a noun, as it is written, stands for many."""
    return noun.split()[-1] in PAIRS or singular(noun) != noun


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in UNCHANGED or word in PAIRS:
        return word
    if word.endswith("man") and word not in ("human", "talisman"):
        return f"{word[:-2]}en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def _singular(word: str) -> str:
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word in PAIRS or word in _ENDS_IN_S:
        return word
    if word.endswith(("women", "firemen", "snowmen", "policemen", "fishermen")):
        return f"{word[:-2]}an"
    if not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses")) or word[:-2] in _ENDS_IN_S:
        return word[:-2]
    return word[:-1]
