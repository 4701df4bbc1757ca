"""What is read out of a compiled program's text, on one small enough to count by hand."""

import pytest

from latentum_jax.eval.hlo import Program

# Five rounds: f32[4,8] weights go through a product, of f32[10,8] a row is taken, f32[6] is carried
# from round to round, and two rounds of an inner loop read f32[3].
TEXT = """
HloModule jit_f, is_scheduled=true

%rows (p.0: f32[10,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[10,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={1,8}
}

%inner_body (q: (s32[], f32[3])) -> (s32[], f32[3]) {
  %q = (s32[], f32[3]{0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %w3 = f32[3]{0} get-tuple-element(%q), index=1
  %negated = f32[3]{0} negate(%w3)
  ROOT %again = (s32[], f32[3]{0}) tuple(%j, %w3)
}

%inner_condition (q: (s32[], f32[3])) -> pred[] {
  %q = (s32[], f32[3]{0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %two = s32[] constant(2)
  ROOT %less = pred[] compare(%j, %two), direction=LT
}

%body (t: (s32[], f32[4,8], f32[10,8], f32[6], f32[3])) -> (s32[], f32[4,8]) {
  %t = (s32[], f32[4,8]{1,0}, f32[10,8]{1,0}, f32[6]{0}, /*index=4*/f32[3]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = f32[4,8]{1,0} get-tuple-element(%t), index=1
  %table = f32[10,8]{1,0} get-tuple-element(%t), index=2
  %state = f32[6]{0} get-tuple-element(%t), index=3
  %three = f32[3]{0} get-tuple-element(%t), index=4
  %picked = f32[1,8]{1,0} fusion(%table, %i), kind=kLoop, calls=%rows
  %product = f32[4,1]{1,0} dot(%w, %picked), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %kernel = f32[6]{0} custom-call(%state), custom_call_target="my_kernel"
  %copied = f32[6]{0} copy(%kernel)
  %start = (s32[], f32[3]{0}) tuple(%i, %three)
  %within = (s32[], f32[3]{0}) while(%start), condition=%inner_condition, body=%inner_body
  %out = f32[3]{0} get-tuple-element(%within), index=1
  ROOT %next = (s32[], f32[4,8], f32[10,8], f32[6], f32[3]) tuple(%i, %w, %table, %copied, %out)
}

%condition (t: (s32[], f32[4,8], f32[10,8], f32[6], f32[3])) -> pred[] {
  %t = (s32[], f32[4,8]{1,0}, f32[10,8]{1,0}, f32[6]{0}, f32[3]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

ENTRY %main (a: (s32[], f32[4,8], f32[10,8], f32[6], f32[3])) -> f32[6] {
  %a = (s32[], f32[4,8]{1,0}, f32[10,8]{1,0}, f32[6]{0}, f32[3]{0}) parameter(0)
  %loop = (s32[], f32[4,8], f32[10,8], f32[6], f32[3]) while(%a), condition=%condition, body=%body
  ROOT %result = f32[6]{0} get-tuple-element(%loop), index=3
}
"""


@pytest.fixture(scope="module")
def program():
    return Program.parse(TEXT)


def test_loops(program):
    """Breaks if a loop is missed, or how often it goes round is misread."""
    assert {loop.name: program.trips(loop) for loop in program.loops()} == {"within": 2, "loop": 5}
    with pytest.raises(ValueError, match=r"loops go round \[2, 5\] times, expected one of 7"):
        program.loop(7)


def test_trips_as_the_compiler_notes_them():
    """Breaks if the note of XLA's backends for CPU and GPU is not read."""
    noted = TEXT.replace(
        "condition=%condition, body=%body",
        'condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"9"}}',
    )
    assert Program.parse(noted).loop(9).name == "loop"


def test_bytes_that_a_round_reads_of_what_stays(program):
    """4 x 8 weights, a row of 8, and twice 3 in the inner loop; the state of 6 changes."""
    assert program.invariant_bytes(program.loop(5)) == (32 + 8 + 2 * 3) * 4


def test_weights_are_read_through_fusions_that_only_rename():
    """Breaks if weights that a TPU lays anew inside the product's own fusion count as not read."""
    laid = TEXT.replace(
        "%body (t:",
        """%inner_most (v: f32[4,8]) -> f32[4,8] {
  %v = f32[4,8]{1,0} parameter(0)
  ROOT %moved = f32[4,8]{1,0} copy(%v)
}

%outer (u: f32[4,8]) -> f32[4,8] {
  %u = f32[4,8]{1,0} parameter(0)
  %deeper = f32[4,8]{1,0} fusion(%u), kind=kLoop, calls=%inner_most
  ROOT %renamed = f32[4,8]{1,0} bitcast(%deeper)
}

%body (t:""",
    ).replace("dot(%w,", "dot(%laid,")
    laid = laid.replace(
        "  %product", "  %laid = f32[4,8]{1,0} fusion(%w), calls=%outer\n  %product"
    )
    program = Program.parse(laid)
    assert program.invariant_bytes(program.loop(5)) == (32 + 8 + 2 * 3) * 4


def test_copies(program):
    """Breaks if a copy of the state, or a row that is cut out, goes unseen, or a product is one."""
    loop = program.loop(5)
    assert program.copies(loop, 24) == ["picked f32[1,8]{1,0}", "copied f32[6]{0}"]
    assert program.copies(loop, 32) == ["picked f32[1,8]{1,0}"]
    assert program.copies(loop, 33) == []


def test_what_a_tpu_fetches_ahead_is_no_copy():
    """Breaks if its prefetches into fast memory count as copies."""
    fetched = TEXT.replace("%copied = f32[6]{0} copy", "%copied = f32[6]{0:S(1)} copy")
    program = Program.parse(fetched)
    assert program.copies(program.loop(5), 24) == ["picked f32[1,8]{1,0}"]


def test_custom_calls(program):
    """Breaks if a kernel is not named by its target."""
    assert program.custom_calls() == {"my_kernel": 1}
