"""What the grammar reads, and what it refuses."""

import pytest

from latentum_jax.rl.prompts import Scene, Thing, parse


def thing(noun, count=None, many=False, **attributes):
    return Thing(noun, count, many, tuple(attributes.items()))


# The six forms of GenEval.
GENEVAL = {
    "a photo of a bench": Scene((thing("bench"),), ()),
    "a photo of a bench and a sports ball": Scene((thing("bench"), thing("sports ball")), ()),
    "a photo of two clocks": Scene((thing("clock", 2, True),), ()),
    "a photo of a blue fire hydrant": Scene((thing("fire hydrant", colour="blue"),), ()),
    "a photo of a dog right of a teddy bear": Scene(
        (thing("dog"), thing("teddy bear")), ((0, "right of", 1),)
    ),
    "a photo of a purple wine glass and a black apple": Scene(
        (thing("wine glass", colour="purple"), thing("apple", colour="black")), ()
    ),
}
# An orange is a colour or a fruit, glass a material or a vessel, a dining table no verb.
AMBIGUOUS = {
    "an orange orange left of an orange": Scene(
        (thing("orange", colour="orange"), thing("orange")), ((0, "left of", 1),)
    ),
    "a glass vase and a glass": Scene((thing("vase", material="glass"), thing("glass")), ()),
    "a white dining table": Scene((thing("dining table", colour="white"),), ()),
    "a scissors below four knifes": Scene(
        (thing("scissors", many=True), thing("knife", 4, True)), ((0, "below", 1),)
    ),
}
GENEVAL2 = {
    "Three striped cats chasing a spotted wooden ball to the left of 2 grey dogs.": Scene(
        (
            thing("cat", 3, True, pattern="striped"),
            thing("ball", pattern="spotted", material="wood"),
            thing("dog", 2, True, colour="gray"),
        ),
        ((0, "chasing", 1), (1, "left of", 2)),
    ),
    "a cat that is sitting on top of a table, one metal box behind a girl held by a man": Scene(
        (
            thing("cat"),
            thing("table"),
            thing("box", 1, material="metal"),
            thing("girl"),
            thing("man"),
        ),
        ((0, "sitting on top of", 1), (2, "behind", 3), (3, "held by", 4)),
    ),
    "a picture of a big red ball with dogs, and a running horse": Scene(
        (thing("big ball", colour="red"), thing("dog", many=True), thing("running horse")), ()
    ),
}


@pytest.mark.parametrize("prompt, scene", (GENEVAL | AMBIGUOUS | GENEVAL2).items())
def test_scenes(prompt, scene):
    """Breaks if a thing, an attribute or a relation is lost, doubled or given to another thing."""
    assert parse(prompt) == scene


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("", "it is empty"),
        ("a photo of", "'of' is no part of a noun"),
        ("a photo of a dog and", "a thing was expected after 'a dog and'"),
        ("a cat smiling", "a thing was expected after 'a cat smiling'"),
        ("a cat; a dog", "it holds ';'"),
        ("12 dogs", "counts go from 1 to 10, got 12"),
        ("zero dogs", "counts go from 1 to 10, got zero"),
        ("twelve dogs", "'twelve' is no part of a noun"),
        ("several dogs", "'several' is no part of a noun"),
        ("dog", "'dog' has neither an article nor a number"),
        ("a black and white cat", "'black' is no noun"),
        ("a red blue ball", "two attributes of one kind"),
        ("a cup of tea", "'of' is no part of a noun"),
        ("a cat on the left", "'left' is no part of a noun"),
        ("the cat my best friend owns", "too long for a noun"),
    ],
)
def test_what_is_refused(prompt, message):
    """Read as something else, it would reward pictures of what nobody asked for."""
    with pytest.raises(ValueError, match=message) as error:
        parse(prompt)
    assert str(error.value).startswith(f"the prompt {prompt!r} cannot be taken apart: ")
