"""Drawing an image: what the compiled loop over visual tokens reads, copies and is given."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from latentum_jax.eval.hlo import Program
from latentum_jax.generate.image import draw, prefill
from latentum_jax.generate.sampling import GREEDY
from latentum_jax.models.latentum import unstack_layers
from latentum_jax.tokenizer import SpecialIds
from tests.small import SMALL

ROWS, WIDTH = 3, 8


@pytest.fixture(scope="module")
def compiled(small):
    """The second program of text to image, guided, and its parameters."""
    params = unstack_layers(small.params)
    ids = SpecialIds(*range(6))
    tokens, lengths = jnp.zeros((ROWS, WIDTH), jnp.int32), jnp.full(2 * ROWS, WIDTH)
    cache, first = jax.eval_shape(
        lambda p: prefill(small.model, p, tokens, lengths[:ROWS], ids=ids, guided=True), params
    )
    made = draw.lower(
        small.model,
        params,
        cache,
        first,
        lengths,
        jnp.zeros(ROWS, jnp.uint32),
        sampling=GREEDY,
        guidance=3.0,
    )
    return made.compile(), params


def test_weights_are_read_once_a_token(compiled):
    """Breaks if a weight is copied before it is read, or the understanding branch is read too.

    A visual token reads the generation branch, the norms that both branches share, its rows of the
    tables, and, once a code, the vision head.
    """
    program, params = Program.parse(compiled[0].as_text()), compiled[1]
    size = lambda tree: 4 * sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    language, head = params["language"], params["head"]
    layers = [{k: v for k, v in layer.items() if k != "und"} for layer in language["layers"]]
    once = size([layers, language["norm"], params["visual_projector"]])
    a_code = size([head["layers"], head["norm"], head["head"]])
    expected = once + SMALL.quantizer.num_codebooks * a_code
    loop = program.loop(SMALL.vision.num_tokens)
    assert expected <= program.invariant_bytes(loop) <= 1.02 * expected


def test_nothing_large_is_copied_in_the_loop(compiled):
    """Breaks if a round copies the cache, a layer of it, or a weight."""
    program = Program.parse(compiled[0].as_text())
    c = SMALL.language
    slots = WIDTH + SMALL.vision.num_tokens
    a_layer = 4 * 2 * ROWS * slots * c.num_kv_heads * c.head_dim
    assert program.copies(program.loop(SMALL.vision.num_tokens), a_layer) == []


def test_it_is_given_what_it_needs(compiled):
    """Breaks if the loop's program holds weights that only the prompt or a picture goes through,
    or does not take the cache over."""
    given = compiled[0].memory_analysis()
    params = flatten_dict(compiled[1], sep="/", is_leaf=lambda _, x: isinstance(x, tuple))
    needed = 0
    for path, value in params.items():
        if path.startswith(("vision/", "mlp1/", "language/embed", "language/lm_head")):
            continue
        leaves = jax.tree_util.tree_flatten_with_path(value)[0]
        for keys, leaf in leaves:
            if "'und'" not in jax.tree_util.keystr(keys):
                needed += 4 * leaf.size
    c, slots = SMALL.language, WIDTH + SMALL.vision.num_tokens
    cache = 2 * 4 * math.prod((c.num_layers, 2 * ROWS, slots, c.num_kv_heads, c.head_dim))
    assert given.alias_size_in_bytes == cache
    assert given.argument_size_in_bytes <= needed + cache + 4 * 2 * ROWS * (c.hidden_size + 2)
