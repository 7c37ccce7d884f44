"""Signatures: what annotations may say, what options may be, and that everything else is refused where it is read."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Complex, Float, Shaped

from manual_backprop.rule import rule
from manual_backprop.rules import RULES
from manual_backprop.signature import Ge, Gt, Lt, OneOf, SignatureError, Try

Vector = Float[Array, "n"]


@rule
def scaled(
    x: Vector,
    *,
    factor: Annotated[float, Gt(0), Lt(4)] = 1,
    steps: Annotated[int, Ge(1)] = 2,
    mode: Literal["up", "down"] = "up",
    size: Annotated[float, OneOf(1, 2)] = 1,
    limit: float | None = None,
    negative: bool = False,
    axes: tuple[int, ...] = (0,),
    anything=0,
) -> Vector:
    """Options of every kind:  y = x."""
    return x


# --- options ---------------------------------------------------------------------------------------------------------

ALLOWED = [
    ("factor", 3, "3.0"),
    ("factor", np.float32(0.5), "0.5"),
    ("factor", jnp.bfloat16(0.5), "0.5"),
    ("steps", np.int8(3), "3"),
    ("steps", jnp.array(3), "3"),
    ("mode", "down", "'down'"),
    ("mode", np.str_("down"), "'down'"),
    ("size", 2, "2.0"),
    ("limit", None, "None"),
    ("limit", 3, "3.0"),
    ("negative", np.True_, "True"),
    ("axes", (1, 2), "(1, 2)"),
    ("anything", frozenset({1}), "frozenset({1})"),
]


@pytest.mark.parametrize(("name", "value", "written"), ALLOWED)
def test_an_option_becomes_a_plain_value(name, value, written):
    assert repr(scaled.bind(**{name: value}).options[name]) == written


REFUSED = [
    ("factor", 0, "factor is 0, but a finite number above 0 and below 4 was expected"),
    ("factor", 4.0, "factor is 4.0, but a finite number above 0 and below 4"),
    ("factor", True, "factor is True, but a finite number"),
    ("factor", "1", "factor is '1', but a finite number"),
    ("factor", None, "factor is None, but a finite number"),
    ("factor", 1j, "factor is 1j, but a finite number"),
    ("factor", np.nan, "factor is nan, but a finite number"),
    ("factor", np.inf, "factor is inf, but a finite number"),
    ("factor", np.ones(1), r"factor is array\(\[1.\]\), a ndarray, but a static option must be hashable"),
    ("factor", 10**309, "factor is 1000.*, but a finite number"),
    ("steps", 0, "steps is 0, but a whole number of at least 1 was expected"),
    ("steps", 2.0, "steps is 2.0, but a whole number"),
    ("steps", True, "steps is True, but a whole number"),
    ("mode", "left", "mode is 'left', but 'up' or 'down' was expected"),
    ("mode", 0, "mode is 0, but 'up' or 'down'"),
    ("size", 3, "size is 3, but 1 or 2 was expected"),
    ("size", True, "size is True, but 1 or 2"),
    ("limit", "3", "limit is '3', but a finite number or None was expected"),
    ("negative", 1, "negative is 1, but True or False was expected"),
    ("axes", [1], "axes is [1], a list, but a static option must be hashable; a tuple"),
    ("axes", 1, "axes is 1, but a tuple was expected"),
    ("anything", {}, "anything is {}, a dict, but a static option must be hashable"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_an_option_that_its_annotation_does_not_allow_is_refused(name, value, message):
    with pytest.raises(SignatureError, match="^scaled: " + message.replace("[1]", r"\[1\]")):
        scaled.bind(**{name: value})


CATALOGUE = [
    ("layer_norm", {"eps": -1}),
    ("layer_norm", {"eps": "a"}),
    ("rms_norm", {"eps": -1e-9}),
    ("dropout", {"rate": 1}),
    ("dropout", {"rate": -0.1}),
    ("gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": 1}),
    ("huber_loss", {"delta": 0}),
    ("celu", {"alpha": 0}),
    ("squareplus", {"b": 0}),
    ("leaky_relu", {"negative_slope": None}),
    ("elu", {"alpha": np.inf}),
]


@pytest.mark.parametrize(("name", "options"), CATALOGUE, ids=str)
def test_the_catalogue_declares_the_domains_of_its_options(name, options):
    (option,) = options
    with pytest.raises(SignatureError, match=f"^{name}: {option} is .* was expected$"):
        RULES[name].bind(**options)


def test_a_traced_option_is_refused():
    with pytest.raises(SignatureError, match=r"leaky_relu: negative_slope is traced, .* name it in static_argnames"):
        jax.jit(lambda slope: RULES["leaky_relu"](jnp.ones(2), negative_slope=slope))(0.1)


def test_options_that_are_equal_and_not_the_same_are_kept_apart():
    """True is 1 and −0.0 is 0.0, for Python; a rule bound to one is not the rule bound to the other."""
    assert [scaled.bind(anything=value).options["anything"] for value in (1, True, 1.0)] == [1, True, 1.0]
    assert [str(scaled.bind(anything=value)) for value in (1, True, 1.0)] == [
        f"scaled(anything={value})" for value in ("1", "True", "1.0")
    ]
    assert scaled.bind(anything=True) != scaled.bind(anything=1)
    assert [str(scaled.bind(limit=zero).options["limit"]) for zero in (0.0, -0.0)] == ["0.0", "-0.0"]
    assert scaled.bind(factor=1) == scaled.bind(factor=1.0)


def test_what_checks_try_is_declared_beside_the_domain():
    tried = scaled.signature.options
    assert tried["mode"] == ("up", "down")
    assert tried["negative"] == (False, True)
    assert tried["size"] == (1.0, 2.0)
    assert tried["factor"] == (1.0,)
    assert RULES["layer_norm"].signature.options["eps"] == (1e-5, 1e-1)


# --- annotations -----------------------------------------------------------------------------------------------------


def of_input(annotation):
    def f(x):
        return x

    f.__annotations__ = {"x": annotation, "return": Vector}
    return f


def of_output(annotation):
    def f(x):
        return x

    f.__annotations__ = {"x": Vector} | ({"return": annotation} if annotation else {})
    return f


def of_option(annotation, *default):
    def f(x, *, k):
        return x

    f.__annotations__ = {"x": Vector, "return": Vector} | ({"k": annotation} if annotation else {})
    f.__kwdefaults__ = {"k": default[0]} if default else None
    return f


def several(*x: Vector) -> Vector:
    return x[0]


def none() -> Vector:
    return jnp.ones(3)


DIMENSION = r"; a dimension is a name, a number, a product such as 2\*d, or \*name"
UNREADABLE = [
    *[(of_input(Float[Array, dims]), rf"f: x: cannot read the dimension {dim} of .*{DIMENSION}") for dims, dim in (
        ("... d", r"'\.\.\.'"), ("#d", "'#d'"), ("n n+1", r"'n\+1'"), ("rows=4", "'rows=4'"), ("_", "'_'"),
        ("*#b d", r"'\*#b'"), ("?n", r"'\?n'"), ("n-1", "'n-1'"), ("n//2", "'n//2'"), ("_rows", "'_rows'"),
    )],
    (of_input(Shaped[Array, "n"]), "f: x: Shaped is none of the kinds Float, Int, Bool and Key"),
    (of_input(Complex[Array, "n"]), "f: x: Complex is none of the kinds"),
    (of_input(jax.Array), "f: x: cannot read the annotation .*; use a jaxtyping array"),
    (of_input("Nowhere"), "f: an annotation names Nowhere, which is not defined"),
    (lambda x: x, "<lambda>: x has no annotation; write e.g. x: Float"),
    (several, r"several: \*x cannot be annotated; name each primal"),
    (none, "none takes no primal"),
    (of_output(None), "f: the output has no annotation; write e.g. -> Float"),
    (of_output(Float[Array, "m"]), "f: the output has the length m, which no primal has"),
    (of_output(Float[Array, "n+1"]), r"f: the output: cannot read the dimension 'n\+1'"),
    (of_option(float), "f: k has neither a default nor values to try; annotate it with Literal or Try"),
    (of_option(None), "f: k has neither a default nor values to try"),
    (of_option(None, [1, 2]), r"f: k: the default is \[1, 2\], a list, but a static option must be hashable"),
    (of_option(float, "a"), "f: k: the default is 'a', but a finite number was expected"),
    (of_option(Annotated[float, Gt(0)], 0.0), "f: k: the default is 0.0, but a finite number above 0 was expected"),
    (of_option(Annotated[float, Gt(0), Try(1, -1)], 1), "f: k: a value to try is -1, but a finite number above 0"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "message"), UNREADABLE)
def test_what_a_signature_cannot_say_is_refused_where_it_is_decorated(function, message):
    with pytest.raises(SignatureError, match=message):
        rule(function)


# --- halves ----------------------------------------------------------------------------------------------------------


def test_a_half_that_is_missing_is_named():
    @rule
    def half(x: Vector) -> Vector:
        """Stands for any rule:  y = x."""
        return x

    with pytest.raises(
        SignatureError, match=r"half has no forward half: write it as \(\*primals, .* @half.def_forward"
    ):
        half(jnp.ones(2))
    half.def_forward(lambda x: (x, ()))
    assert half(jnp.ones(2)).shape == (2,)
    with pytest.raises(SignatureError, match=r"half has no backward half: write it as \(residuals, .* @half.def_back"):
        jax.grad(lambda x: half(x).sum())(jnp.ones(2))
