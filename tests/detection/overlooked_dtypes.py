"""Narrow numbers, whole numbers, functions as arguments, and closed forms of published packages."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from .case import by_hand, right, wrong
from .halves import keeping, pointwise
from .overlooked_kinks import by_tangents

# --- dtypes ----------------------------------------------------------------------------------------------------------


def rms(x):
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def rms_case(dtype):
    def backward(saved, g):
        x, h = saved[0].astype(dtype), g.astype(dtype)
        root = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + jnp.asarray(1e-6, dtype))
        y = x * root
        return ((root * (h - y * jnp.mean(h * y, -1, keepdims=True))).astype(g.dtype),)

    return by_hand(rms, keeping(rms), backward)


@wrong("dtype", "not_finite", "values", "cancellation", "missing_term", "dropped", args="f16[3,6]>300<600")
def rms_of_half_squared_in_half():
    """The squares of what is above 256 are infinite in half precision."""
    return rms_case(jnp.float16)


@right(args="f16[3,6]>300<600")
def rms_of_half_squared_in_single():
    return rms_case(jnp.float32)


@right(args="bf16[4,5] f32[5,3]")
def product_of_narrow_activations_and_wide_weights():
    """Each cotangent has the dtype of its own argument."""

    def product(a, b):
        return jnp.dot(a, b, preferred_element_type=jnp.float32)

    def function(x, w):
        return product(x, w.astype(x.dtype)).astype(x.dtype)

    def backward(saved, g):
        x, w = saved
        return product(g, w.astype(x.dtype).T).astype(x.dtype), product(x.T, g).astype(w.dtype)

    return by_hand(function, keeping(function), backward)


@right(args="f32[3,4] f8_e4m3fn[4,2] f32[]>0")
def product_with_weights_of_eight_bits():
    """The weights are held constant."""

    def function(x, w, scale):
        return x @ (lax.stop_gradient(w).astype(x.dtype) * scale)

    def backward(saved, g):
        x, w, scale = saved
        wide = w.astype(g.dtype)
        return g @ (wide * scale).T, jnp.zeros_like(w), jnp.sum(g * (x @ wide))

    return by_hand(function, keeping(function), backward)


@right(args="f32[5] i16[3]<5")
def outputs_of_truth_values_and_whole_numbers():
    def function(x, at):
        return x[at], x[at] > 0, at + 1

    def backward(saved, g):
        x, at = saved
        return jnp.zeros_like(x).at[at].add(g[0]), np.zeros(at.shape, jax.dtypes.float0)

    return by_hand(function, keeping(function), backward)


@right(args="f32[8,2] i32[3,2]<200")
def table_by_a_hash_that_wraps():
    """Multiplications of unsigned integers overflow on purpose.  Source: instant-ngp."""

    def place(at, rows):
        at = at.astype(jnp.uint32)
        return (at[:, 0] ^ (at[:, 1] * jnp.uint32(2654435761))) % jnp.uint32(rows)

    def function(table, at):
        return table[place(at, len(table))]

    def backward(saved, g):
        table, at = saved
        return jnp.zeros_like(table).at[place(at, len(table))].add(g), None

    return by_hand(function, keeping(function), backward)


# --- arguments that are no arrays ------------------------------------------------------------------------------------


@right(args="f32[4]")
def activation_applied_three_times():
    """A function and a count as static arguments."""

    def function(act, count, x):
        for _ in range(count):
            x = act(x)
        return x

    def forward(act, count, x):
        kept = []
        for _ in range(count):
            kept.append(x)
            x = act(x)
        return x, tuple(kept)

    def backward(act, count, kept, g):
        for x in reversed(kept):
            (g,) = jax.vjp(act, x)[1](g)
        return (g,)

    made = by_hand(function, forward, backward, nondiff_argnums=(0, 1))
    return lambda x: made(jnp.sin, 3, x)


@right(args="f32[4] f32[4]")
def angle_with_symbolic_zeros():
    """Where both are zero both slopes are."""
    function = jax.custom_jvp(lambda x, y: jnp.arctan2(x, y))

    def rule(primals, tangents):
        x, y = primals
        square = x * x + y * y
        out, safe = jnp.zeros_like(x), jnp.where(square == 0, 1, square)
        for slope, tangent in zip((y, -x), tangents, strict=True):
            if not isinstance(tangent, SymbolicZero):
                out += jnp.where(square == 0, 0, slope / safe) * tangent
        return function(x, y), out

    function.defjvp(rule, symbolic_zeros=True)
    return function


def recurrence(a, b, start):
    def step(h, ab):
        h = ab[0] * h + ab[1]
        return h, h

    return lax.scan(step, start, (a, b))[1]


def recurrence_case(first):
    def backward(saved, g):
        a, _, start = saved
        h = recurrence(*saved)

        def step(bar, ag):
            bar = bar + ag[1]
            return ag[0] * bar, bar

        start_bar, bars = lax.scan(step, jnp.zeros_like(start), (a, g), reverse=True)
        return bars * jnp.concatenate([first(start)[None], h[:-1]]), bars, start_bar

    return by_hand(recurrence, keeping(recurrence), backward)


@wrong("values", "located", "dropped", "missing_path", "missing_term", args="f32[5,3]>0<1 f32[5,3] f32[3]>=0<=0")
def recurrence_first_gate_from_nothing():
    """The state before the first is taken for zero, which it is in the example."""
    return recurrence_case(jnp.zeros_like)


@right(args="f32[5,3]>0<1 f32[5,3] f32[3]>=0<=0")
def recurrence_first_gate_from_the_start():
    return recurrence_case(lambda start: start)


# --- closed forms ----------------------------------------------------------------------------------------------------


def p_norm(x, p):
    size = jnp.abs(x)
    return jnp.sum(jnp.where(size > 0, jnp.where(size > 0, size, 1) ** p, 0)) ** (1 / p)


def p_norm_case(log):
    def backward(saved, g):
        x, p = saved
        size, y = jnp.abs(x), p_norm(x, p)
        mean = jnp.sum(size**p * log(size)) / (p * y**p)
        return g * jnp.sign(x) * size ** (p - 1) * y ** (1 - p), g * y * (mean - jnp.log(y) / p)

    return by_hand(p_norm, keeping(p_norm), backward)


@wrong("not_finite", "values", "kink", args="f32[5] f32[]>=3<=3")
def p_norm_by_its_order_with_a_zero():
    """|x|^p log |x| at x = 0."""
    return p_norm_case(jnp.log)


@right(args="f32[3,4]")
def sum_of_singular_values():
    """U Vᵀ."""

    def function(a):
        return jnp.linalg.svd(a, compute_uv=False).sum()

    def forward(a):
        u, s, v = jnp.linalg.svd(a, full_matrices=False)
        return s.sum(), u @ v

    return by_hand(function, forward, lambda turn, g: (g * turn,))


@right(args="f32[6]>0<1")
def slope_of_a_table():
    """Sixteen pieces of a sine, held beyond the last."""
    values = np.sin(np.linspace(0, 3, 17))

    def place(x):
        at = jnp.clip(x, 0, 0.999) * 16
        return at, jnp.floor(at).astype(int)

    def function(x):
        table, (at, i) = jnp.asarray(values, x.dtype), place(x)
        return table[i] + (at - i).astype(x.dtype) * (table[i + 1] - table[i])

    def slope(x):
        table, (_, i) = jnp.asarray(values, x.dtype), place(x)
        return jnp.where((x >= 0) & (x < 0.999), 16 * (table[i + 1] - table[i]), 0)

    return pointwise(function, slope)


def signed_sum(x, weights):
    """log |Σ b eˣ|."""
    top = lax.stop_gradient(x.max(1, keepdims=True))
    return jnp.log(jnp.abs(jnp.sum(weights * jnp.exp(x - top), 1))) + top[:, 0]


def signed_case(total):
    def rule(primals, tangents):
        x, b = primals
        e = jnp.exp(x - x.max(1, keepdims=True))
        s = jnp.sum(b * e, 1, keepdims=True)
        return jnp.sum(b * e / s * tangents[0] + e / total(s) * tangents[1], 1)

    return by_tangents(signed_sum, rule)


@wrong("sign", "values", "located", "local_derivative", args="f32[3,4] f32[3,4]<0")
def signed_sum_by_its_size():
    return signed_case(jnp.abs)


@right(args="f32[3,4] f32[3,4]")
def signed_sum_of_exponentials():
    """Source: ott."""
    return signed_case(lambda s: s)


def log_cosh(z):
    z = z * jnp.where(z.real < 0, -1, 1)
    return z + jnp.log1p(jnp.exp(-2 * z)) - float(np.log(2))


@wrong("local_derivative", args="c64[4]")
def complex_log_cosh_conjugated():
    return by_tangents(log_cosh, lambda p, t: jnp.tanh(p[0]).conj() * t[0])


@right(args="c64[4]")
def complex_log_cosh():
    """Source: NetKet."""
    return by_tangents(log_cosh, lambda p, t: jnp.tanh(p[0]) * t[0])


def energy_terms(at, sigma, depth):
    one = jnp.eye(len(at), dtype=bool)
    gap = at[:, None] - at
    square = jnp.sum(gap**2, -1) + one
    width = (sigma[:, None] + sigma) / 2
    return gap, square, width, jnp.sqrt(depth[:, None] * depth), ~one & (square < 9), (width**2 / square) ** 3


def energy(at, sigma, depth):
    """Lennard-Jones, cut off at three."""
    _, _, _, both, near, u = energy_terms(at, sigma, depth)
    return jnp.sum(jnp.where(near, 4 * both * (u * u - u), 0)) / 2


def energy_case(share, heard=1):
    def backward(saved, g):
        gap, square, width, both, near, u = energy_terms(*saved)
        depth = saved[2]
        c = jnp.where(near, 4 * both * (12 * u * u - 6 * u), 0)
        by_width = jnp.where(near, 4 * both * (12 * u - 6) * width**5 / square**3, 0)
        each = jnp.where(near, 4 * (u * u - u) * jnp.sqrt(depth / depth[:, None]), 0)
        at_bar = -share * jnp.sum((c / square)[..., None] * gap, 1)
        return g * at_bar, heard * g * jnp.sum(by_width, 1) / 2, heard * g * jnp.sum(each, 1) / 2

    made = by_hand(energy, keeping(energy), backward)
    return lambda at, sigma, depth: made(at + 2 * jnp.arange(len(at)).astype(at.dtype)[:, None], sigma, depth)


ATOMS = "f32[4,3]>-0.2<0.2 f32[4]>1<1.2 f32[4]>0.5<1.5"


@wrong("factor", args=ATOMS)
def energy_of_pairs_halved():
    """Each pair pulls at both of its ends with all of its force, and counts half from each in the energy alone."""
    return energy_case(0.5)


@wrong("dropped", args=ATOMS)
def energy_parameters_held():
    return energy_case(1, heard=0)


@right(args=ATOMS)
def energy_of_pairs():
    """Source: jax-md."""
    return energy_case(1)
