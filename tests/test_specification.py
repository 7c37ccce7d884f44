"""The language of example arguments: what is drawn lies in its domain, texts survive, and errors say what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.reference.points import VALUES
from manual_backprop.reference.specification import DTYPES, FLOATS, INTEGERS, draw, parse
from manual_backprop.signature import SignatureError


def drawn(text, values="normal", seed=0):
    return draw(parse(text), np.random.default_rng(seed), values)


def one(text, values="normal", seed=0):
    (argument,) = drawn(text, values, seed)
    return argument


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "bool", "c64", "c128"])
def test_every_dtype_is_drawn_as_stated_and_jax_takes_it(name):
    array = one(f"{name}[40,3]")
    assert (type(array), array.shape, array.dtype) == (np.ndarray, (40, 3), jnp.dtype(DTYPES[name]))
    with jax.enable_x64(True):
        assert jnp.asarray(array).dtype == array.dtype
    assert np.unique(array).size > 1


def test_floats_are_standard_normal_and_integers_below_eight():
    x = one("f64[4000]")
    assert abs(x.mean()) < 0.1
    assert 0.9 < x.std() < 1.1
    assert set(one("i32[400]")) == set(range(8))
    z = one("c128[4000]")
    assert min(z.real.std(), z.imag.std()) > 0.9


BOUNDED = [
    ("{}[200]>0", lambda x: x > 0),
    ("{}[200]>=2", lambda x: x >= 2),
    ("{}[200]<-1", lambda x: x < -1),
    ("{}[200]<=-1", lambda x: x <= -1),
    ("{}[200]>0<1", lambda x: (x > 0) & (x < 1)),
    ("{}[200]>=-1<=1", lambda x: (x >= -1) & (x <= 1)),
    ("{}[200]>0.3<0.9", lambda x: (x > 0.3) & (x < 0.9)),
]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("text", "inside"), BOUNDED)
@pytest.mark.parametrize("values", VALUES)
def test_bounds_hold_in_the_dtype_itself(name, text, inside, values):
    x = one(text.format(name), values).astype(np.float64)
    assert np.isfinite(x).all()
    assert inside(x).all()


INTEGER_BOUNDS = [("<10", range(10)), (">=2<5", range(2, 5)), (">2<=5", range(3, 6)), (">=-3<3", range(-3, 3))]
INTEGER_BOUNDS += [("<=4", range(5)), (">3", range(4, 12)), ("<-2", range(-10, -2)), ("<=0", range(1))]


@pytest.mark.parametrize(("bounds", "wanted"), INTEGER_BOUNDS)
def test_integers_take_every_value_that_their_bounds_allow(bounds, wanted):
    assert set(one(f"i16[400]{bounds}")) == set(wanted)


def test_keys():
    assert one("key").shape == ()
    keys = one("key[4]")
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    assert len({tuple(data) for data in np.asarray(jax.random.key_data(keys))}) == 4


def test_literals_stand_as_they_are():
    given = drawn("3 -0.5 1e-3 True None 'mean' \"it's\"")
    assert given == (3, -0.5, 1e-3, True, None, "mean", "it's")
    assert [type(a) for a in given[:4]] == [int, float, float, bool]


def test_containers_nest():
    pair, (first, rest), params = drawn("(f32[3], i32[]<2) [f16[1], (bool[2],)] {w: {'a b': f32[3]}, 0: None, s: 'x'}")
    assert (type(pair), pair[0].shape, pair[1].shape) == (tuple, (3,), ())
    assert (type(rest), first.dtype) == (tuple, np.float16)
    assert (params["w"]["a b"].shape, params[0], params["s"]) == ((3,), None, "x")
    assert drawn("() [] {}") == ((), [], {})


def test_no_text_is_no_argument_and_empty_shapes_are_allowed():
    assert drawn("  ") == ()
    assert [a.shape for a in drawn("f32[0,3] i32[0]<4 f32[0]distinct f32[2,0]sorted")] == [(0, 3), (0,), (0,), (2, 0)]


@pytest.mark.parametrize("values", VALUES)
def test_sorted_and_distinct(values):
    for text in ("f32[5]sorted", "i32[9]<4sorted", "bf16[3,40]>0sorted"):
        assert (np.diff(one(text, values).astype(np.float64), axis=-1) >= 0).all()
    for text in (
        "f32[50]distinct",
        "bf16[6,10]distinct",
        "i32[10]<10distinct",
        "i8[12]distinct",
        "f8_e5m2[20]distinct",
    ):
        x = one(text, values)
        assert np.unique(x).size == x.size
    x = one("i32[10]<10distinctsorted", values)
    assert list(x) == list(range(10))


def test_the_seed_and_nothing_else_decides():
    text = "f32[3] i32[4]<100 bool[9] c64[2] key f32[6]distinct"
    for a, b in zip(drawn(text, seed=1), drawn(text, seed=1), strict=True):
        assert np.array_equal(*(jax.random.key_data(k) if hasattr(k, "_impl") else k for k in (a, b)))
    assert not np.array_equal(one("f32[3]", seed=1), one("f32[3]", seed=2))
    assert np.abs(one("f32[99]", "large")).max() > 10 > np.abs(one("f32[99]", "normal")).max()


TEXTS = [
    "f32[4,8] i32[4]<10",
    "f32[] key key[4] bool[2]",
    "bf16[3]>0<1 f64[2]>=-1.5<=1e-05 i64[3]>2<=5",
    "(f32[3], f32[2]) (f32[1],) () [f32[3], 2] []",
    "{w: f32[3,2], b: f32[], 'a name': 0.5, 7: 'x'} {}",
    "f32[5]sorted f32[5]>0sorteddistinct 'mean' True None -3",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_survives(text):
    assert str(parse(text)) == text
    assert str(parse(f"  {text}\n ".replace(",", " , ").replace(": ", " :  "))) == text
    assert parse(str(parse(text))) == parse(text)


MALFORMED = [
    ("f32[4,8", "'f32[4,8'", "',' or ']' was expected but the text ends"),
    ("i32[4<10", "'i32[4<10'", "',' or ']' was expected before '<10'"),
    ("f32[2] f31[3]", "'f31[3]'", "a dtype (f16, f32,"),
    ("float32[3]", "'float32[3]'", "a dtype (f16, f32,"),
    ("mean", "'mean'", "'mean' in quotes"),
    ("f32", "'f32'", "the lengths of f32, in brackets, was expected"),
    ("f32[-1]", "'f32[-1]'", "a length was expected before '-1]'"),
    ("f32[a]", "'f32[a]'", "a length was expected before 'a]'"),
    ("f32[3]>", "'f32[3]>'", "a number after > was expected"),
    ("f32[3]>x", "'f32[3]>x'", "a number after > was expected before 'x'"),
    ("i32[4]<2.5", "'i32[4]<2.5'", "an integer after < was expected"),
    ("f32[3]i32[2]", "'f32[3]i32[2]'", "white space between two arguments was expected before 'i32[2]'"),
    ("f32[3],f32[2]", "'f32[3],f32[2]'", "white space between two arguments"),
    ("f32[3]>1<0", "'f32[3]>1<0'", "f32 has no number there"),
    ("f8_e4m3fn[3]>1<1.01", "'f8_e4m3fn[3]>1<1.01'", "f8_e4m3fn has no number there"),
    ("i32[3]>2<3", "'i32[3]>2<3'", "i32 has no number there"),
    ("u8[3]<300", "'u8[3]<300'", "u8 holds 0 … 255"),
    ("u8[3]>=-1<3", "'u8[3]>=-1<3'", "u8 holds 0 … 255"),
    ("i32[5]<4distinct", "'i32[5]<4distinct'", "5 integers from 0 to 3 cannot all differ"),
    ("key>0", "'key>0'", "> does not go with key"),
    ("bool[2]sorted", "'bool[2]sorted'", "sorted does not go with bool"),
    ("c64[2]>0", "'c64[2]>0'", "> does not go with c64"),
    ("f32[]sorted", "'f32[]sorted'", "there is no axis to sort along"),
    ("(f32[3])", "'(f32[3])'", "',' in a tuple of one"),
    ("(f32[3], f32[2]", "'(f32[3],'", "',' or ')' was expected but the text ends"),
    ("(", "'('", "')' or one more part was expected but the text ends"),
    ("[f32[3] 2]", "'[f32[3]'", "',' or ']' was expected before '2]'"),
    ("{f32[3]}", "'{f32[3]}'", "':' after the name 'f32' was expected before '[3]}'"),
    ("{w: 1, w: 2}", "'{w:'", "the name 'w' came before"),
    ("{1.5: 2}", "'{1.5:'", "':' after the name 1"),
    ("007", "'007'", "this is no Python literal"),
    ("f32[2] )", "')'", "a dtype (f16, f32,"),
    ("'mean", '"\'mean"', "a literal or a bracket"),
    ("f32 [3]", "'f32'", "the lengths of f32, in brackets, was expected before white space"),
]


@pytest.mark.parametrize(("text", "token", "expected"), MALFORMED)
def test_a_malformed_text_is_refused_in_one_line_with_an_example(text, token, expected):
    with pytest.raises(SignatureError) as caught:
        parse(text)
    message = str(caught.value)
    assert token in message
    assert expected in message
    assert "\n" not in message
    assert "; for example " in message


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(SignatureError, match="values is 'odd'; it is one of normal"):
        drawn("f32[2]", "odd")
    with pytest.raises(SignatureError, match="asks for 3 different numbers"):
        drawn("f32[3]>=1<=1distinct")
