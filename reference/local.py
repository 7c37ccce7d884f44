"""A subject at certain shapes, in a certain dtype: its definition and its derivative by hand, each traced once.

The definition is the primal, whatever derivatives are written by hand inside it, as `widening` runs it.
"""

import copy
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from .oracles import ORACLES
from .oracles.outside import OUTSIDE, called_back
from .precision import compiled
from .pullback import program, pull, to_numpy
from .subject import Subject, Unusable
from .tracing.interpreter import equations, on_and_on, open_jaxpr, settled, settles, walk
from .tracing.widening import CannotWiden, coarsest, kind, steadied, unstopped, widened


class Local:
    """A subject at the shapes of these primals, in this dtype.

    definition(*primals)           float64 in, float64 out: what the truth is the derivative of
    hand(primals, cotangent)       the output and the cotangents of the derivative written by hand, in the dtype
    """

    def __init__(self, subject: Subject, primals, dtype: str):
        self.subject, self.dtype = subject, dtype
        self.steady: Steady | None = None
        self._oracles: dict[str, Callable] = {}
        self.reverse, self.why = None, ""  # whether autodiff in reverse applies to the definition, once it was tried
        cast = subject.cast(primals, dtype)
        self.wide = subject.real_cast(primals, dtype)
        with self.precision():
            self.outputs = jax.eval_shape(subject, *cast)
            if not self.outputs:
                raise Unusable(f"{subject}: no float output; its derivative has nothing to be taken of")
            if subject.definition is not None:
                self.definition, self.unit = subject.definition, _coarsest(jax.make_jaxpr(subject)(*cast), dtype)
                return
            if subject.outside:
                self._call_back(subject.shapes == [np.shape(a) for a in primals])
                return
            function = subject.traceable
            if subject.truth:
                self._must_agree(jax.eval_shape(function, *cast))
            try:
                traced = jax.make_jaxpr(function)(*cast)
                self.definition, self.unit = widened(traced), _coarsest(traced, dtype)
                if "reduce_max" in str(traced):
                    self.steady = Steady(steadied(traced))
                with jax.enable_x64(True):
                    jax.eval_shape(self.definition, *primals)
            except (CannotWiden, TypeError, ValueError) as error:
                if not isinstance(error, CannotWiden):
                    jax.make_jaxpr(function)(*cast)  # a function that cannot be traced at all says so itself
                with jax.enable_x64(True):  # what cannot be widened runs in float64 from the start
                    wide = subject.cast(primals, "float64") if dtype != "float64" else cast
                    self.definition = _stripped(jax.make_jaxpr(function)(*wide))
                self.unit = dtype

    def _call_back(self, given):
        """The truth that runs outside of JAX as the definition; what autodiff makes of that is nothing."""
        self.definition, self.unit = (
            called_back(self.subject.outside, self.subject.example if given else self.wide),
            self.dtype,
        )
        self.reverse, self.why = False, OUTSIDE
        with jax.enable_x64(True):
            self._must_agree(jax.eval_shape(self.definition, *self.wide))

    @functools.cached_property
    def own(self) -> "Local":
        """The function itself in place of a truth that runs outside of JAX, which has no dtype: what rounding does."""
        alone = copy.copy(self.subject)
        alone.truth = alone.outside = None
        return Local(alone, self.wide, self.dtype)

    def _must_agree(self, outputs):
        theirs, ours = ([o.shape for o in some] for some in (outputs, self.outputs))
        if theirs != ours:
            raise Unusable(f"{self.subject}: truth gives outputs of shapes {theirs}, the function {ours}")

    @functools.cached_property
    def equations(self):
        """The definition as it is traced in float64."""
        with jax.enable_x64(True):
            return jax.make_jaxpr(self.definition)(*self.wide)

    def autodiff_raises(self, kind_of_error: type, said: str) -> bool:
        """Whether autodiff of the function, derivatives by hand passed over, raises this as well."""
        try:
            with self.precision():
                cotangent = tuple(jnp.zeros(o.shape, o.dtype) for o in self.outputs)
                jax.eval_shape(
                    lambda *cast: self._passed_over(cast, cotangent), *self.subject.cast(self.wide, self.dtype)
                )
        except Exception as error:  # whatever it is: it is compared
            return isinstance(error, kind_of_error) and str(error).strip().startswith(said)
        return False

    def _passed_over(self, cast, cotangent):
        """Output and cotangents by autodiff in the dtype itself."""
        traced = jax.make_jaxpr(self.subject.traceable)(*cast)
        out, bars = pull(_stripped(traced), cast, cotangent)
        return out, tuple(bar if c else None for bar, c in zip(bars, self.subject.differentiated, strict=True))

    @functools.cached_property
    def value(self):
        """The outputs of the definition in float64, compiled."""
        return compiled(self.definition)

    def oracle(self, name: str) -> Callable:
        """An oracle of `oracles.ORACLES` for the definition, with what it compiled."""
        return self._oracles.setdefault(name, ORACLES[name].__wrapped__(self.definition))

    @functools.cached_property
    def truth(self):
        """(output, cotangents) of the definition in float64, compiled for one point, without any allowance."""
        return compiled(functools.partial(pull, self.definition))

    @functools.cached_property
    def stops_gradient(self) -> bool:
        """Whether the definition holds something constant on purpose."""
        return "stop_gradient" in str(self.equations)

    def unstopped(self, primals, cotangent):
        """The cotangents if no gradient were stopped; None where the function does not run so.

        In forward mode where the stop is what reverse mode needs.
        """
        try:
            free = unstopped(self.equations)
        except CannotWiden:
            return None
        for way in (
            functools.partial(pull, free),
            lambda *both: (None, ORACLES["jacfwd"].__wrapped__(free)(*both).value),
        ):
            try:
                with jax.enable_x64(True):
                    return to_numpy(compiled(way)(primals, cotangent)[1])
            except Exception:  # what a stranger's rule has against a tangent that it never saw
                continue
        return None

    def settles_at(self, primals, cotangent=None) -> bool:
        """Whether the loops of the definition, or with a cotangent of the derivative by hand, find what they search."""
        with jax.enable_x64(True) if cotangent is None else self.precision():
            if cotangent is not None:
                primals = *self.subject.cast(primals, self.dtype), *self.cast_outputs(cotangent)
            searching = self._searching[cotangent is not None]
            return searching is None or bool(searching(*primals))

    @functools.cached_property
    def _searching(self):
        both = self.equations, self.by_hand[0]
        return [compiled(functools.partial(_settled, each)) if settles(each) else None for each in both]

    @functools.cached_property
    def asked_for(self) -> tuple[float, ...]:
        """The numbers that the definition asks for exactly, as in `where(x == 1, …)`."""
        asking = [e for e in equations(self.equations) if e.primitive.name in ("eq", "ne")]
        numbers = {float(a.val) for e in asking for a in e.invars if np.shape(getattr(a, "val", [0])) == ()}
        return tuple(sorted(numbers))

    @functools.cached_property
    def pullback_program(self):
        """The derivative of the definition for stacks of points; definitions with the same equations share one."""
        avals = [jax.ShapeDtypeStruct(o.shape, np.float64) for o in self.outputs]
        captured = tuple(np.asarray(c).tobytes() for c in open_jaxpr(self.equations)[1] if kind_of(c) != "key")
        key = str(self.equations), captured, str(avals)
        return self.subject.programs.setdefault(key, program(self.definition))

    def precision(self):
        """64-bit JAX where the dtype needs it."""
        wide = self.dtype == "float64" or any(
            np.dtype(leaf.dtype).itemsize == 8 for leaf in self.subject.leaves if kind(leaf.dtype) == "float"
        )
        return jax.enable_x64(wide)

    def pullback(self, primals, cotangent):
        """jax.vjp of the function itself: the derivative written by hand, whoever wrote it."""
        out, pull_back = self.subject.vjp(self.subject, primals)
        return out, pull_back(tuple(jnp.asarray(c).astype(o.dtype) for c, o in zip(cotangent, out, strict=True)))

    def forward_pass(self, primals):
        """What runs between a forward and a backward pass, of arguments in the dtype: cotangent -> cotangents."""
        out, pull_back = self.subject.vjp(self.subject, jax.device_put(self.subject.cast(primals, self.dtype)))

        def pull(cotangent):
            return pull_back(jax.device_put(tuple(cotangent)))

        pull.out, pull.kept = out, pull_back.kept
        return pull

    @functools.cached_property
    def kept(self):
        """The floats that a forward pass keeps for the backward pass, compiled: leaves in the dtype -> arrays."""
        return compiled(
            lambda *cast: [a for a in self.subject.vjp(self.subject, cast)[1].kept if kind_of(a) == "float"]
        )

    def autodiff(self, primals, cotangent):
        """What autodiff of the definition gives in the dtype itself."""
        with self.precision(), jax.default_matmul_precision("highest"):
            return jax.jit(self._passed_over)(self.subject.cast(primals, self.dtype), self.cast_outputs(cotangent))

    @functools.cached_property
    def primal(self):
        """The function itself, compiled in the dtype: no derivative is asked of it."""
        return compiled(self.subject)

    @functools.cached_property
    def _undifferentiated(self):
        return compiled(self.subject.traceable) if self.subject.traceable is not self.subject else self.primal

    def plainly(self, primals):
        """The outputs of the definition as it was written, in the dtype."""
        with self.precision(), jax.default_matmul_precision("highest"):
            return self._undifferentiated(*self.subject.cast(primals, self.dtype))

    def traces_alike(self) -> bool:
        """Whether the function is the same equations with the same constants whenever it is traced."""
        cast = self.subject.cast(self.wide, self.dtype)
        with self.precision():
            first, again = (jax.make_jaxpr(lambda *cast: self.subject(*cast))(*cast) for _ in range(2))  # none kept
        pairs = zip(first.consts, again.consts, strict=False)
        return str(first) == str(again) and all(a is b or _equal(a, b) for a, b in pairs)

    def repeats(self) -> bool:
        """Run the function; whether it gives the same again, which is asked where it calls back into Python."""
        cast = self.subject.cast(self.wide, self.dtype)
        with self.precision():
            first = jax.block_until_ready(self.primal(*cast))
            if not any("callback" in equation.primitive.name for equation in equations(self.equations)):
                return True
            return all(map(_equal, first, self.primal(*cast)))

    @functools.cached_property
    def _jitted(self):
        given = self.subject.definition is None and self.dtype == self.subject.dtype
        own = given and [np.shape(a) for a in self.wide] == self.subject.shapes
        return (jax.jit if own else compiled)(self.pullback)  # as its users run it, and elsewhere compiled quickly

    def hand(self, primals, cotangent, eager: bool = False):
        """(outputs, cotangents) in the dtype; None for a leaf that is not differentiated."""
        run = self.pullback if eager else self._jitted
        with self.precision(), jax.default_matmul_precision("highest"):
            both = self.subject.cast(primals, self.dtype), self.cast_outputs(cotangent)
            return run(*jax.device_put(both)) if eager else run(*both)

    def trace_hand(self):
        """(equations, shapes) of the derivative by hand; what JAX or its author have against that is raised."""
        with self.precision(), jax.default_matmul_precision("highest"):
            return jax.make_jaxpr(self.pullback, return_shape=True)(
                self.subject.cast(self.wide, self.dtype), self.outputs
            )

    @functools.cached_property
    def by_hand(self):
        """The same, traced once."""
        return self.trace_hand()

    @functools.cached_property
    def _formula(self):
        traced, shape = self.by_hand
        structure, run = jax.tree.structure(shape), widened(traced)
        return compiled(lambda *arguments: structure.unflatten(run(*jax.tree.leaves(arguments))))

    def formula(self, primals, cotangent):
        """The derivative by hand as it was traced in the dtype, run in float64: its formula, without its rounding."""
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            return self._formula(primals, cotangent)

    def in_the_end(self, primals, cotangent, steps: bool):
        """(cotangents of the definition, cotangents by hand) in float64, if every search of them went on for longer.

        steps  whether a number of steps that do the same did, too
        """
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            definition, by_hand = self._on_and_on[steps]
            return definition(primals, cotangent).value, by_hand(primals, cotangent)[1]

    @functools.cached_property
    def _on_and_on(self):
        structure = jax.tree.structure(self.by_hand[1])
        cotangent = [np.zeros(o.shape) for o in self.outputs]
        formula = jax.make_jaxpr(widened(self.by_hand[0]))(*self.wide, *cotangent)

        def longer(steps):
            run = functools.partial(on_and_on, steps=steps)
            definition = ORACLES["jacfwd"].__wrapped__(lambda *primals: tuple(run(self.equations, primals)))
            return definition, compiled(lambda *both: structure.unflatten(run(formula, jax.tree.leaves(both))))

        return longer(False), longer(True)

    def cast_outputs(self, cotangent) -> tuple:
        """A cotangent in the dtypes of the outputs."""
        return tuple(np.asarray(c).astype(o.dtype) for c, o in zip(cotangent, self.outputs, strict=True))

    def __str__(self):
        return self.subject.name


class Steady:
    """A definition with its maxima held constant: see `widening.steadied`."""

    def __init__(self, definition: Callable):
        self.definition, self.pullback_program = definition, program(definition)


def _equal(a, b) -> bool:
    a, b = (jax.random.key_data(each) if kind_of(each) == "key" else each for each in (a, b))
    return np.array_equal(a, b, equal_nan=np.issubdtype(np.asarray(a).dtype, np.inexact))


def _settled(closed, *arguments):
    return settled(closed, arguments)


def _coarsest(traced, dtype):
    found = coarsest(traced)
    return max((d for d in (found, dtype) if d), key=lambda d: jnp.finfo(d).eps)


def _stripped(traced):
    return lambda *primals: tuple(walk(traced, primals))
