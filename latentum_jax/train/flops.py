"""How much arithmetic a function is: the products in it, counted where jax has traced it."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Multiplications and additions in matrix products and convolutions, loops by their length.

    What a backward pass computes again counts as often as it is computed. `args` may be shapes.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        a = equation.invars[0].aval
        summed = math.prod(a.shape[i] for i in params["dimension_numbers"][0][0])
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out = params["dimension_numbers"].rhs_spec[0]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[out]
    inner = [_inside(value) for value in params.values()]
    counts = [sum(map(_of_jaxpr, found)) for found in inner if found]
    if name == "cond":  # one of its branches is taken
        (branches,) = (found for found in inner if found)
        return max(map(_of_jaxpr, branches))
    return sum(counts) * params.get("length", 1) if name == "scan" else sum(counts)


def _inside(value: Any) -> list[Jaxpr]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [x for one in value for x in _inside(one)] if isinstance(value, (tuple, list)) else []
