"""Any JAX callable with example arguments, seen as a function of its arrays with a derivative written by hand.

A complex leaf counts as two real ones, z = re + i im, so that every oracle of real functions applies; JAX's
convention for cotangents, Re⟨ȳ, f(z)⟩ = Re Σ ȳ f, is what `jax.vjp` then has to keep.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.rule import Rule
from manual_backprop.signature import kind_of

from .oracles.outside import NeitherWay, outside
from .tracing.interpreter import settles
from .tracing.widening import kind
from .trials.kept import is_symmetric

FLOATS = ("float", "complex")


class Unusable(Exception):  # noqa: N818 - what came, what was expected, what to do
    """What was asked to be checked cannot be: the message says why."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array among the arguments: its name as the function's author would write it, and its place."""

    name: str
    place: int  # among all leaves of the arguments
    differentiated: bool
    dtype: Any


class Subject:
    """A callable, example arguments, and the leaves of them that are arrays.

    function   a `jax.custom_vjp` or `jax.custom_jvp` function, a rule, or any callable of JAX
    args       example arguments: arrays, pytrees of arrays, keys; everything else is static
    argnums    which arguments are differentiated; all that have floats, if None
    truth      a plain implementation of the same function, if the function's own primal cannot be differentiated

    `definition` is given to a derivative alone; `outside` is a truth that JAX cannot trace, called with numbers.
    """

    def __init__(self, function: Callable, args: Sequence, argnums=None, truth: Callable | None = None, name=None):
        if truth is not None and not callable(truth):
            raise Unusable(f"truth is {truth!r}; give a plain function with the same arguments, or leave it out")
        if not callable(function):
            raise Unusable(f"{function!r} is not callable; give a function of JAX arrays, then example arguments")
        self._given = function, argnums, truth, name
        self.name, self.definition, self.outside = name or _name(function), None, None
        if isinstance(function, Rule):
            truth, function = truth or function.definition, function.custom_vjp
        self.function, self.truth, self.args = function, truth, tuple(args)
        self.programs: dict = {}  # compiled, by the equations of what they are the derivatives of
        self.static = frozenset(getattr(function, "nondiff_argnums", ()) or ())
        self.argnums = _argnums(argnums, len(self.args), self.name)
        self._leaves, self._structure = jax.tree.flatten(self.args, is_leaf=lambda a: a is None)
        self.leaves = list(self._arrays())
        if not self._traces() and any(isinstance(self._leaves[leaf.place], float | complex) for leaf in self.leaves):
            # A Python number that decides which way the function goes is static.
            self.leaves = [leaf for leaf in self.leaves if not isinstance(self._leaves[leaf.place], float | complex)]
        if not any(leaf.differentiated for leaf in self.leaves):
            came = ", ".join(_described(a) for a in self.args) or "nothing"
            raise Unusable(f"{self.name}: nothing differentiable among the arguments ({came}); give a float array")
        if not any(np.size(self._leaves[leaf.place]) for leaf in self.leaves if leaf.differentiated):
            came = ", ".join(map(_described, self.args))
            raise Unusable(f"{self.name}: what is differentiated has no elements ({came}); give arrays that have some")
        if truth is not None:
            self._trace_the_truth()

    def _traces(self) -> bool:
        try:
            jax.eval_shape(self, *self.cast(self.example, self.dtype))
        except (jax.errors.ConcretizationTypeError, TypeError, ValueError):
            return False
        except Exception:  # whatever else it is, is said where the function is called
            return True
        return True

    def _trace_the_truth(self):
        """Where JAX cannot trace it, it is called with numbers; where that does not go either, it is refused."""
        try:
            jax.eval_shape(self.plain, *self.cast(self.example, self.dtype))
        except Exception as refused:  # whatever a stranger's function has against it
            if any(kind_of(a) == "key" for a in self.example):
                raise Unusable(
                    f"{self.name}: truth runs outside of JAX, where keys mean nothing; leave it out"
                ) from refused
            try:
                self.outside = outside(self.truth, self.assemble, self.example)
            except NeitherWay as error:
                said = f"{type(refused).__name__}: {str(refused).splitlines()[0]}"
                raise Unusable(
                    f"{self.name}: JAX cannot trace truth ({said}), nor can NumPy call it ({error})"
                ) from refused

    def _named(self):
        """The name of every leaf of the arguments, the number of its argument, and its value."""
        names = _parameters(self.function, len(self.args))
        for path, value in jax.tree_util.tree_leaves_with_path(self.args, is_leaf=lambda a: a is None):
            yield names[path[0].idx] + jax.tree_util.keystr(path[1:]), path[0].idx, value

    def options(self) -> Iterator[tuple[str, int, bool | int | float | None]]:
        """The flags and numbers among the arguments that are static, and None for one: name, place and value."""
        arrays = {leaf.place for leaf in self.leaves}
        for place, (name, number, value) in enumerate(self._named()):
            if place not in arrays and (
                isinstance(value, bool | int | float) or (value is None and number in self.static)
            ):
                yield name, place, value

    def at(self, primals) -> "Subject":
        """The same with other arrays as example arguments."""
        function, argnums, truth, name = self._given
        return Subject(function, self.assemble(self.cast(primals, self.dtype)), argnums, truth, name)

    def with_options(self, changed: dict) -> "Subject":
        """The same with other values of some options, by place."""
        function, argnums, truth, name = self._given
        leaves = [changed.get(i, a) for i, a in enumerate(self._leaves)]
        return Subject(function, jax.tree.unflatten(self._structure, leaves), argnums, truth, name)

    def _arrays(self):
        for place, (name, number, value) in enumerate(self._named()):
            if why := _without_numbers(value):
                raise Unusable(f"{self.name}: {name} {why}")
            if number in self.static or not _is_array(value):
                continue
            dtype = value.dtype if hasattr(value, "dtype") else jnp.result_type(value)
            chosen = self.argnums is None or number in self.argnums
            yield Leaf(name, place, chosen and kind(dtype) in FLOATS, dtype)

    def arrays(self):
        """The example arguments as a caller would give them: NumPy's arrays as JAX's."""
        leaves = list(self._leaves)
        for leaf in self.leaves:
            leaves[leaf.place] = jnp.asarray(leaves[leaf.place])
        return jax.tree.unflatten(self._structure, leaves)

    @property
    def example(self) -> tuple:
        """The arrays of the example arguments, floats among them as real float64 arrays."""
        return self.real([self._leaves[leaf.place] for leaf in self.leaves])

    @functools.cached_property
    def names(self) -> list[str]:
        """The name of every real leaf; a complex one gives two."""
        return [
            leaf.name + part
            for leaf in self.leaves
            for part in ((".real", ".imag") if kind(leaf.dtype) == "complex" else ("",))
        ]

    def output_names(self, count: int) -> list[str]:
        """The names of the float outputs: y, unless an argument is called so."""
        y = "output" if any(leaf.name.split("[")[0] == "y" for leaf in self.leaves) else "y"
        return [y] if count == 1 else [f"{y}[{i}]" for i in range(count)]

    @functools.cached_property
    def differentiated(self) -> list[bool]:
        """Of every real leaf, whether it is differentiated."""
        return [leaf.differentiated for leaf in self.leaves for _ in range(1 + (kind(leaf.dtype) == "complex"))]

    @functools.cached_property
    def shapes(self) -> list[tuple]:
        """The shapes of the example's real leaves."""
        return [np.shape(a) for a in self.example]

    @property
    def dtype(self) -> str:
        """The float dtype of the example: the one of the fewest digits where they differ."""
        infos = [jnp.finfo(leaf.dtype).dtype for leaf in self.leaves if kind(leaf.dtype) in FLOATS]
        return str(max(infos, key=lambda dtype: jnp.finfo(dtype).eps))

    def real(self, arrays) -> tuple:
        """Arrays as the leaves came, each complex one split in two, floats in float64."""
        split = []
        for leaf, value in zip(self.leaves, arrays, strict=True):
            if kind(leaf.dtype) == "complex":
                value = np.asarray(value)
                split += [value.real.astype(np.float64), value.imag.astype(np.float64)]
            else:
                split.append(np.asarray(value).astype(np.float64) if kind(leaf.dtype) == "float" else value)
        return tuple(split)

    def assemble(self, primals, pair=jax.lax.complex, given=lambda array: array):
        """The arguments again, of real leaves: parts of complex numbers paired, and each array as it is to be given."""
        leaves, rest = list(self._leaves), iter(primals)
        for leaf in self.leaves:
            value = next(rest)
            leaves[leaf.place] = given(pair(value, next(rest)) if kind(leaf.dtype) == "complex" else value)
        return jax.tree.unflatten(self._structure, leaves)

    def cast(self, primals, dtype: str) -> tuple:
        """The real leaves in a dtype; where it is the example's own, each in the dtype that it had."""
        own = [leaf.dtype for leaf in self.leaves for _ in range(1 + (kind(leaf.dtype) == "complex"))]
        given = dtype == self.dtype

        def one(value, had):
            if kind(had) not in FLOATS:
                return value
            with np.errstate(over="ignore"):
                return np.asarray(value).astype(jnp.finfo(had).dtype if given else jnp.dtype(dtype))

        return tuple(one(value, had) for value, had in zip(primals, own, strict=True))

    def real_cast(self, primals, dtype: str) -> tuple:
        """The real leaves rounded to a dtype, in float64 again."""
        cast = self.cast(primals, dtype)
        return tuple(np.asarray(value, np.float64) if kind(value.dtype) in FLOATS else value for value in cast)

    def __call__(self, *primals):
        """The float outputs of the function at real leaves, complex ones split in two."""
        return real_outputs(self.function(*self.assemble(self._mirrored(primals))))

    @functools.cached_property
    def _symmetric(self) -> list[int]:
        """The leaves that a search is given as symmetric matrices: conjugate gradients are no solver of others.

        What such a search does beside them is nobody's business; its derivative is one along symmetric matrices, and
        any two that differ by an antisymmetric matrix are the same.
        """
        complex_too = any(kind(leaf.dtype) == "complex" for leaf in self.leaves)
        if complex_too or self.outside:
            return []
        found = [i for i, a in enumerate(self.example) if self.differentiated[i] and is_symmetric(a)]
        if not found:
            return []
        traced = jax.make_jaxpr(lambda *primals: real_outputs(self.function(*self.assemble(primals))))(
            *self.cast(self.example, self.dtype)
        )
        return found if settles(traced) else []

    def _mirrored(self, primals):
        """The same, where a search needs symmetric matrices made symmetric: which those that come are."""
        square = [
            i for i in self._symmetric if np.ndim(primals[i]) > 1 and primals[i].shape[-1] == primals[i].shape[-2]
        ]
        return [(a + jnp.swapaxes(a, -1, -2)) / 2 if i in square else a for i, a in enumerate(primals)]

    def vjp(self, function: Callable, primals):
        """jax.vjp with respect to the leaves that are differentiated: (output, cotangent -> one cotangent per leaf).

        The others have None.  `kept` of the pullback are the arrays that it holds.
        """

        def of_chosen(*floats):
            rest = iter(floats)
            return function(*(next(rest) if c else p for c, p in zip(self.differentiated, primals, strict=True)))

        out, vjp = jax.vjp(of_chosen, *(p for c, p in zip(self.differentiated, primals, strict=True) if c))

        def pull_back(cotangent):
            bars = iter(vjp(cotangent))
            return tuple(next(bars) if c else None for c in self.differentiated)

        pull_back.kept = jax.tree.leaves(vjp)
        return out, pull_back

    def plain(self, *primals):
        """The same of the plain implementation that was given."""
        return real_outputs(self.truth(*self.assemble(self._mirrored(primals))))

    @property
    def traceable(self) -> Callable:
        """What JAX traces for the definition: the plain implementation, if it is one of JAX, and else the function."""
        return self.plain if self.truth and not self.outside else self

    def __str__(self):
        return self.name


def real_outputs(out) -> tuple:
    """The float leaves of an output, complex ones as their real and imaginary parts."""
    real = []
    for leaf in jax.tree.leaves(out):
        if kind(jnp.result_type(leaf)) == "complex":
            # Re(ȳ f) with ȳ = a + ib is a re − b im: JAX's convention for cotangents of complex numbers
            real += [jnp.real(leaf), jnp.imag(leaf)]
        elif kind(jnp.result_type(leaf)) == "float":
            real.append(leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf))
    return tuple(real)


def _without_numbers(value) -> str | None:
    if isinstance(value, jax.core.Tracer):
        return "is a tracer, which has no numbers; call check outside of jit, grad and vmap"
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"is a shape, {_described(value)}, without numbers; give an array"
    return None


def _is_array(value) -> bool:
    if isinstance(value, bool | int | str | bytes) or value is None:
        return False
    return isinstance(value, float | complex | np.ndarray | np.generic | jax.Array)


def _argnums(argnums, count, name):
    if argnums is None:
        return None
    chosen = tuple(argnums) if isinstance(argnums, tuple | list | set | frozenset) else (argnums,)
    for number in chosen:
        if not isinstance(number, int) or not -count <= number < count:
            raise Unusable(f"{name}: argnums is {argnums!r}, but there are {count} arguments; they count from 0")
    return frozenset(number % count for number in chosen)


def _name(function) -> str:
    for candidate in (function, getattr(function, "fun", None), getattr(function, "func", None)):
        if isinstance(candidate, Rule):
            return str(candidate)
        if getattr(candidate, "__name__", None):
            return candidate.__name__
    return type(function).__name__


def _parameters(function, count) -> list[str]:
    """The names of the positional parameters, as far as they can be told."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    starred = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "args")
    return [positional[i] if i < len(positional) else f"{starred}[{i - len(positional)}]" for i in range(count)]


def _described(value) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
