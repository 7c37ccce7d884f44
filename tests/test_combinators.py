"""Combinators against autodiff, to the last bit: whole numbers add and multiply without rounding."""

import functools

import faults
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array, Float

from manual_backprop.architecture import build
from manual_backprop.combinators import checkpointed, concatenate, fan_out, repeat, residual, scan, serial, tied
from manual_backprop.reference.points import input_leaves, point
from manual_backprop.rule import rule, value_and_grad
from manual_backprop.rules import RULES
from manual_backprop.signature import SignatureError, is_leaf, kind_of


@rule
def cell(
    x: Float[Array, "n"], h: Float[Array, "n"], w: Float[Array, "n"]
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """A recurrent cell without rounding:  h_t = x_t + w h_{t−1},  y_t = h_t h_{t−1}."""
    new = x + w * h
    return new * h, new


@cell.def_forward
def _(x, h, w):
    new = x + w * h
    return (new * h, new), (h, w, new)


@cell.def_backward
def _(residuals, bars):
    h, w, new = residuals
    y_bar, h_bar = bars
    new_bar = h_bar + y_bar * h
    return new_bar, w * new_bar + y_bar * new, h * new_bar


NETWORKS = [
    ("serial(dense(3), relu, dense(2))", (2, 4)),
    ("serial(serial(dense(3)), serial(relu, linear(2)))", (2, 4)),
    ("fan_out(relu, dense(4), identity)", (2, 4)),
    ("fan_out(embedding(5, 4), embedding(5, 4))", (2,)),
    ("concatenate(dense(2), identity, relu)", (2, 4)),
    ("concatenate(concatenate(relu, dense(1)), dense(3))", (2, 4)),
    ("parallel(relu, dense(2))", ((2, 4), (3, 4))),
    ("serial(split, parallel(dense(3), serial(relu, linear(3))), multiply)", (2, 4)),
    ("serial(split, parallel(residual(relu), identity), join)", (2, 4)),
    ("residual(dense(4))", (2, 4)),
    ("residual(residual(fan_out(residual(dense(4)), relu)))", (2, 4)),
    ("tied(dense(4), dense(4), dense(4))", (2, 4)),
    ("tied(dense(4), residual(dense(4)))", (2, 4)),
    ("tied(prelu, tied(prelu, prelu))", (2, 4)),
    ("repeat(dense(4), 3)", (2, 4)),
    ("repeat(serial(residual(dense(4)), relu), 2)", (2, 4)),
    ("repeat(repeat(linear(4), 2), 2)", (2, 4)),
    ("repeat(relu, 2)", (2, 4)),
    ("checkpointed(serial(dense(3), relu))", (2, 4)),
    ("residual(checkpointed(repeat(checkpointed(dense(4)), 2)))", (2, 4)),
    ("serial(embedding(5, 4), residual(dense(4)), concatenate(identity, relu))", (2, 3)),
]
CELLS = [
    (scan(cell), (3, 4)),
    (scan(checkpointed(cell)), (3, 4)),
    (residual(scan(cell)), (3, 4)),
    (serial(scan(cell), scan(cell)), (3, 4)),
    (repeat(scan(cell), 2), (3, 4)),
    (concatenate(scan(cell), RULES["relu"]), (3, 4)),
]


def whole(network, shape):
    """A point whose numbers are small and whole."""
    at = point(network, shape, "normal", 0)
    rng = np.random.default_rng(len(str(network)))

    def number(a):
        return rng.integers(-3, 4, a.shape).astype(float) if kind_of(a) == "float" else a

    return jax.tree.map(number, at.primals), jax.tree.map(number, at.cotangent)


def by_hand(network, primals, cotangent):
    y, residuals = network.forward(*primals)
    return y, tuple(network.backward(residuals, cotangent))


def by_autodiff(network, primals, cotangent):
    """The output and one cotangent for every float leaf, None for every other."""
    leaves, structure = jax.tree.flatten(primals)
    which = [i for i, leaf in enumerate(leaves) if kind_of(leaf) == "float"]

    def of_floats(*floats):
        filled = dict(zip(which, floats, strict=True))
        return network.definition(*structure.unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)]))

    y, pullback = jax.vjp(of_floats, *(leaves[i] for i in which))
    bars = dict(zip(which, pullback(cotangent), strict=True))
    return y, structure.unflatten([bars.get(i) for i in range(len(leaves))])


def same(one, other):
    flat_one, flat_other = (jax.tree.flatten(tree, is_leaf=lambda a: a is None) for tree in (one, other))
    assert flat_one[1] == flat_other[1]
    for a, b in zip(flat_one[0], flat_other[0], strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b), f"{a} where {b} was expected"


every_network = pytest.mark.parametrize(("network", "shape"), [(build(e), s) for e, s in NETWORKS] + CELLS, ids=str)


@every_network
def test_backward_is_what_autodiff_finds(network, shape):
    primals, cotangent = whole(network, shape)
    with jax.enable_x64(True):
        both = jax.jit(lambda *point: (by_hand(network, *point), by_autodiff(network, *point)))
        hand, autodiff = both(primals, cotangent)
    same(hand, autodiff)
    assert any(np.any(bar) for bar in jax.tree.leaves(hand[1]))


@every_network
def test_shapes_are_those_of_what_comes_out(network, shape):
    x = input_leaves(network, shape)
    parameters, output = network.shapes(x)
    primals, _ = whole(network, shape)
    assert jax.tree.map(lambda leaf: leaf.shape, (x, *parameters), is_leaf=is_leaf) == jax.tree.map(np.shape, primals)
    given = jax.eval_shape(network.definition, *primals)
    assert jax.tree.map(lambda leaf: leaf.shape, output, is_leaf=is_leaf) == jax.tree.map(lambda a: a.shape, given)


def test_keys_have_no_cotangent_however_they_are_joined():
    for expression in ("tied(dropout, dropout)", "repeat(dropout, 2)", "residual(dropout)", "checkpointed(dropout)"):
        network = build(expression)
        primals, cotangent = whole(network, (2, 4))
        x_bar, key_bar = by_hand(network, primals, cotangent)[1]
        assert key_bar is None
        assert x_bar.shape == (2, 4)


# --- as a function of JAX --------------------------------------------------------------------------------------------

TRIPLED = faults.on_leaf(0, lambda bar: 3 * bar)  # only the derivative by hand has this factor
SQUARE = serial(RULES["dense"].sized(4), faults.faulty(RULES["relu"], TRIPLED), RULES["squared_error"])


def a_square():
    """Eight outputs, so that their mean is exact as well."""
    rng = np.random.default_rng(0)
    x, w, b, target = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((2, 4), (4, 4), (4,), (2, 4)))
    return x, (w, b), (), (target,)


def hand_gradient(network, *primals):
    return value_and_grad(network)(*primals)


def test_value_and_grad_by_hand_is_that_of_autodiff():
    network = serial(RULES["dense"].sized(4), RULES["relu"], RULES["squared_error"])
    primals = a_square()
    same(value_and_grad(network)(*primals), jax.value_and_grad(network.definition, argnums=(0, 1, 2, 3))(*primals))


def test_value_and_grad_needs_a_scalar():
    with pytest.raises(SignatureError, match=r"relu has an output of shape \(2,\); a gradient needs a scalar"):
        value_and_grad(RULES["relu"])(jnp.ones(2))


def test_calling_a_network_differentiates_by_hand():
    primals = a_square()
    value, bars = hand_gradient(SQUARE, *primals)
    plain = jax.grad(SQUARE.definition, argnums=1)(*primals)
    assert not np.array_equal(bars[1][0], plain[0]), "the planted factor does not show"
    for transform in (lambda f: f, jax.jit, jax.checkpoint):
        same(jax.value_and_grad(transform(SQUARE), argnums=(0, 1, 2, 3))(*primals), (value, bars))


def test_calling_a_network_under_vmap_differentiates_by_hand():
    x, *params = a_square()
    xs = np.stack([x, 2 * x, -x])
    mapped = jax.vmap(jax.grad(SQUARE, argnums=1), in_axes=(0, None, None, None))(xs, *params)
    each = [hand_gradient(SQUARE, x, *params)[1][1] for x in xs]
    same(mapped, jax.tree.map(lambda *a: jnp.stack(a), *each))


def test_calling_a_network_inside_a_scan_differentiates_by_hand():
    x, *params = a_square()
    xs = np.stack([x, 2 * x, -x])

    def total(params):
        return lax.scan(lambda sum, x: (sum + SQUARE(x, *params), None), 0.0, xs)[0]

    each = [hand_gradient(SQUARE, x, *params)[1][1:] for x in xs]
    same(tuple(jax.grad(total)(tuple(params))), jax.tree.map(lambda *a: functools.reduce(jnp.add, a), *each))


def test_integer_labels_and_keys_go_through_jax():
    network = build("serial(embedding(5, 4), dropout, softmax_cross_entropy_with_integer_labels)")
    network = serial(network.layers[0], faults.faulty(network.layers[1], TRIPLED), network.layers[2])
    table = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    primals = np.array([1, 3]), (table,), (jax.random.key(0),), (np.array([0, 2]),)
    value, bars = hand_gradient(network, *primals)
    assert (bars[0], bars[2], bars[3]) == (None, (None,), (None,))
    same(jax.value_and_grad(network, argnums=1)(*primals), (value, bars[1]))
    plain = jax.grad(network.definition, argnums=1)(*primals)
    assert np.max(abs(bars[1][0] - plain[0])) > np.max(abs(plain[0]))  # tripled, not rounded


def test_a_rule_takes_options_where_it_is_called():
    assert RULES["leaky_relu"](jnp.array([-1.0]), negative_slope=0.5) == -0.5


def test_primals_may_be_named():
    x, w = np.arange(8.0).reshape(2, 4), np.arange(4.0).reshape(4, 1)
    expected = RULES["linear"](x, w)
    assert np.array_equal(RULES["linear"](x, w=w), expected)
    assert np.array_equal(RULES["linear"](w=w, x=x, o=1), expected)


AROUND = [
    lambda layer: layer,
    serial,
    fan_out,
    concatenate,
    residual,
    tied,
    checkpointed,
    lambda layer: repeat(layer, 1),
]


@pytest.mark.parametrize("around", AROUND)
def test_a_half_that_is_written_anew_takes_effect_everywhere(around):
    """As in a notebook, where a cell is edited and run again; also in functions that were compiled before."""

    @rule
    def times(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Stands for any rule:  y = x."""
        return x

    net = around(times)
    params = [()] * len(net.shapes(input_leaves(net, (1,)))[0])
    skipped = 1 if around is residual else 0
    nets = [net, net.compiled()]
    jitted = [jax.jit(functools.partial(lambda of, x: of(x, *params)[0], of)) for of in nets]
    for factor in (2, 3, 2):
        times.def_forward(lambda x, factor=factor: (factor * x, ()))
        times.def_backward(lambda _, y_bar, factor=factor: (10 * factor * y_bar,))
        for function in (*nets, *jitted, *map(jax.jit, nets)):
            of_x = function if function in jitted else lambda x, function=function: function(x, *params)[0]
            assert of_x(jnp.ones(1)) == factor + skipped
            assert jax.grad(of_x)(jnp.ones(1)) == 10 * factor + skipped


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_keeps_its_primals_and_nothing_else():
    layer = build("serial(dense(3), tanh, dense(2))")
    primals, _ = whole(layer, (2, 4))
    _, kept = checkpointed(layer).forward(*primals)
    assert [id(a) for a in jax.tree.leaves(kept)] == [id(a) for a in jax.tree.leaves(primals)]
    assert not {id(a) for a in jax.tree.leaves(layer.forward(*primals)[1])} <= {id(a) for a in jax.tree.leaves(kept)}


def test_tied_layers_have_the_parameters_of_one():
    one, several = RULES["dense"].sized(4), build("tied(dense(4), dense(4), dense(4))")
    x = input_leaves(one, (2, 4))
    assert several.shapes(x)[0] == one.shapes(x)[0]


# --- misuse ----------------------------------------------------------------------------------------------------------

MISUSE = [
    ("serial(dense(3), add)", (2, 4), r"add: terms is float\[2, 3\], but a tuple of 2 was expected"),
    (
        "fan_out(dense(3), dense(4))",
        (2, 4),
        r"fan_out adds its branches, but they give float\[2, 3\] and float\[2, 4\]",
    ),
    ("concatenate(relu, logsumexp)", (2, 4), r"differ in their last axis only, not float\[2, 4\] and float\[2\]"),
    (
        "parallel(relu, relu)",
        (2, 4),
        r"input is \(2, 4\), but parallel\(relu, relu\) reads 2 shapes, as in \(\(3, 4\), \(3, 4\)\)",
    ),
    ("residual(dense(3))", (2, 4), r"residual needs a layer that keeps the shape, but dense\(3\) takes"),
    (
        "tied(dense(3), dense(4))",
        (2, 4),
        r"tied layers share .*, but these need float\[4, 3\], float\[3\] and float\[3, 4\], float\[4\]",
    ),
    ("repeat(dense(3), 2)", (2, 4), r"repeat needs a layer that keeps the shape, but dense\(3\) takes"),
    ("scan(relu)", (3, 4), r"scan needs a cell \(x, h, \*params\) -> \(y, h\), but relu gives"),
    ("dense", (2, 4), r"dense needs the length o: write dense\(3\)"),
    ("split", (2, 3), r"input has shape \(2, 3\) where \(\*batch, 2\*d\) was expected by split"),
    ("layer_norm", (), r"shape \(\) where \(\*batch, d\) was expected"),
    ("relu", ((2, 4), (2, 4)), r"input is \(\(2, 4\), \(2, 4\)\), but relu reads one shape, such as \(3, 4\)"),
]


@pytest.mark.parametrize(("expression", "shape", "message"), MISUSE)
def test_layers_that_do_not_fit_say_what_came_and_what_was_expected(expression, shape, message):
    network = build(expression)
    with pytest.raises(SignatureError, match=message):
        network.shapes(input_leaves(network, shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (serial, "serial needs at least one layer"),
        (fan_out, "fan_out needs at least one layer"),
        (concatenate, "concatenate needs at least one layer"),
        (tied, "tied needs at least one layer"),
        (residual, r"residual takes \(layer\), but 0 came"),
        (lambda: residual(RULES["relu"], RULES["tanh"]), r"residual takes \(layer\), but 2 came"),
        (lambda: repeat(RULES["relu"]), r"repeat takes \(layer, times\), but 1 came"),
        (lambda: repeat(RULES["relu"], 0), "repeat needs a whole number from 1 to 2³¹ − 1, not 0"),
        (lambda: repeat(RULES["relu"], 2.0), "repeat needs a whole number from 1 to 2³¹ − 1, not 2.0"),
        (lambda: repeat(RULES["relu"], True), "repeat needs a whole number from 1 to 2³¹ − 1, not True"),
        (lambda: repeat(RULES["relu"], 2**31), "repeat needs a whole number from 1 to 2³¹ − 1, not 2147483648"),
        (lambda: serial([RULES["relu"]]), r"serial joins rules, but a list came: unpack it with \*"),
        (lambda: serial(jnp.tanh), "serial joins rules, but the function tanh came: make a rule of it with @rule"),
        (lambda: serial(RULES["relu"], residual), "serial joins rules, but the function residual came"),
        (lambda: checkpointed(3), "checkpointed joins rules, but 3 came"),
        (lambda: scan("relu"), "scan joins rules, but 'relu' came"),
        (lambda: RULES["relu"].bind(slope=1), "relu has no slope"),
        (lambda: RULES["dense"].bind(o=-1), "the length o is -1; a whole number from 0 to 2³¹ − 1 was expected"),
        (lambda: RULES["dense"].bind(o=[3]), r"the length o is \[3\]; a whole number"),
        (lambda: RULES["dense"].bind(o=2**31), "the length o is 2147483648; a whole number"),
        (lambda: RULES["relu"].sized(3), r"relu takes no length, but \(3,\) came"),
    ],
)
def test_combinators_say_what_they_need(make, message):
    with pytest.raises(SignatureError, match=message):
        make()


LAYERS, X, DENSE = build("serial(dense(3), tanh)"), jnp.ones((2, 4)), (jnp.ones((4, 3)), jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RULES["dense"](jnp.ones((2, 4))), r"dense takes 3 primals \(x, w, b\), but 1 came"),
        (lambda: RULES["relu"](jnp.arange(3)), "relu: x is integer, but float was expected"),
        (lambda: RULES["relu"]("text"), "relu: x is a str; an array was expected"),
        (
            lambda: RULES["linear"](jnp.ones((2, 4)), jnp.ones((3, 2))),
            r"linear: w has shape \(3, 2\) where \(i = 4, o\)",
        ),
        (lambda: RULES["add"](jnp.ones(2)), r"add: terms is an array of shape \(2,\), but a tuple of 2 was expected"),
        (lambda: RULES["add"]([jnp.ones(2)] * 2), "add: terms is a list of 2, but a tuple of 2 was expected"),
        (lambda: RULES["add"]((jnp.ones(2), None)), r"add: terms\[1\] is None; an array was expected"),
        (lambda: RULES["relu"](1j), "relu: x is complex, but float was expected"),
        (lambda: RULES["relu"](jnp.ones(2), x=jnp.ones(2)), "relu: x came twice"),
        (
            lambda: RULES["dense"](jnp.ones((2, 4)), w=jnp.ones((4, 3))),
            r"dense takes 3 primals \(x, w, b\), but 2 came",
        ),
        (lambda: RULES["relu"](y=jnp.ones(2)), "relu has no y"),
        (
            lambda: RULES["linear"].sized(3)(jnp.ones((2, 4)), jnp.ones((4, 5))),
            r"linear\(3\): w has shape \(4, 5\) where \(i = 4, o = 3\) was expected",
        ),
        (lambda: LAYERS(), r"serial\(dense\(3\), tanh\) takes an input and its parameters, but nothing came"),
        (lambda: LAYERS(X), "takes an input and 2 parameters, but 1 primals came"),
        (lambda: LAYERS(X, DENSE, (), ()), "takes an input and 2 parameters, but 4 primals came"),
        (lambda: LAYERS(X, (), ()), r"params\[0\] is a tuple of 0, but a tuple of 2 was expected"),
        (lambda: LAYERS(X, list(DENSE), ()), r"params\[0\] is a list of 2, but a tuple of 2 was expected"),
        (lambda: LAYERS(X, DENSE, (X,)), r"params\[1\] is a tuple of 1, but a tuple of 0 was expected"),
        (lambda: LAYERS(X.T, DENSE, ()), r"params\[0\]\[0\] has shape \(4, 3\) where \(2, 3\) was expected"),
        (lambda: LAYERS(jnp.ones((2, 4), int), DENSE, ()), "dense: x is integer, but float was expected"),
        (lambda: LAYERS("text", DENSE, ()), "the input holds a str; arrays were expected"),
        (lambda: jax.grad(LAYERS, 1)(X, list(DENSE), ()), r"params\[0\] is a list of 2"),
        (lambda: value_and_grad(LAYERS)(X, ()), "takes an input and 2 parameters, but 2 primals came"),
        (lambda: LAYERS.compiled()(X, DENSE), "takes an input and 2 parameters, but 2 primals came"),
        (lambda: RULES["embedding"](jnp.ones(2), jnp.ones((3, 2))), "embedding: indices is float, but integer"),
    ],
)
def test_a_call_that_does_not_fit_names_the_argument(call, message):
    with pytest.raises(SignatureError, match=message):
        call()
