"""Gated cells, cumulative sums and products, and steps of differential equations."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping
from .recurrent import compose

sigmoid = jax.nn.sigmoid


# --- one step of a gated recurrent unit, and of a long short-term memory ---------------------------------------------


def gru(x, h, w, u):
    """x and h give three gates: w (i, 3 h), u (h, 3 h); the reset gate acts after the recurrent product."""
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x @ w, 3, -1), jnp.split(h @ u, 3, -1)
    z, n = sigmoid(xz + hz), jnp.tanh(xn + sigmoid(xr + hr) * hn)
    return (1 - z) * n + z * h


def gru_forward(x, h, w, u):
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x @ w, 3, -1), jnp.split(h @ u, 3, -1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (1 - z) * n + z * h, (x, h, w, u, r, z, n, hn)


def gru_gates(saved, g):
    """The cotangents of the gates' insides, and of the recurrent product's part of the candidate."""
    _, h, _, _, r, z, n, hn = saved
    n_in = g * (1 - z) * (1 - n**2)
    return n_in * hn * r * (1 - r), g * (h - n) * z * (1 - z), n_in, n_in * r


@right(args="f32[4,2] f32[4,3] f32[2,9] f32[3,9]")
def gru_step():
    """The state has a straight road, through z, and three through the gates."""

    def backward(saved, g):
        x, h, w, u, _, z, *_ = saved
        r_in, z_in, n_in, n_h = gru_gates(saved, g)
        x_in, h_in = jnp.concatenate([r_in, z_in, n_in], -1), jnp.concatenate([r_in, z_in, n_h], -1)
        return x_in @ w.T, g * z + h_in @ u.T, x.T @ x_in, h.T @ h_in

    return by_hand(gru, gru_forward, backward)


@wrong("missing_path", args="f32[4,2] f32[4,3] f32[2,9] f32[3,9]")
def gru_without_the_straight_road():
    """The state's road past the gates, times z, is forgotten."""

    def backward(saved, g):
        x, h, w, u, *_ = saved
        r_in, z_in, n_in, n_h = gru_gates(saved, g)
        x_in, h_in = jnp.concatenate([r_in, z_in, n_in], -1), jnp.concatenate([r_in, z_in, n_h], -1)
        return x_in @ w.T, h_in @ u.T, x.T @ x_in, h.T @ h_in

    return by_hand(gru, gru_forward, backward)


@wrong("local_derivative", "wrong_residual", args="f32[4,2] f32[4,3] f32[2,9] f32[3,9]")
def gru_reset_gate_left_out_of_the_recurrent_part():
    """The candidate's cotangent reaches the recurrent product without the reset gate."""

    def backward(saved, g):
        x, h, w, u, _, z, *_ = saved
        r_in, z_in, n_in, _ = gru_gates(saved, g)
        gates = jnp.concatenate([r_in, z_in, n_in], -1)
        return gates @ w.T, g * z + gates @ u.T, x.T @ gates, h.T @ gates

    return by_hand(gru, gru_forward, backward)


def lstm(gates, c):
    """The gates' insides (…, 4 h) in the order i f g o, and the cell: the new hidden state and cell."""
    i, f, g, o = jnp.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def lstm_forward(gates, c):
    i, f, g, o = (act(v) for act, v in zip((sigmoid, sigmoid, jnp.tanh, sigmoid), jnp.split(gates, 4, -1), strict=True))
    new = f * c + i * g
    return (o * jnp.tanh(new), new), (i, f, g, o, c, new)


@right(args="f32[2,12] f32[2,3]")
def lstm_step():
    """The new cell hears from its own output and from the hidden state."""

    def backward(saved, bars):
        i, f, g, o, c, new = saved
        h_bar, c_bar = bars
        c_bar = c_bar + h_bar * o * (1 - jnp.tanh(new) ** 2)
        inner = (c_bar * g * i * (1 - i), c_bar * c * f * (1 - f), c_bar * i * (1 - g**2))
        return jnp.concatenate([*inner, h_bar * jnp.tanh(new) * o * (1 - o)], -1), c_bar * f

    return by_hand(lstm, lstm_forward, backward)


@wrong("missing_path", args="f32[2,12] f32[2,3]")
def lstm_cell_overwritten():
    """What comes back to the cell itself is overwritten.  Source: apache/mxnet issue 4057."""

    def backward(saved, bars):
        i, f, g, o, c, new = saved
        c_bar = bars[0] * o * (1 - jnp.tanh(new) ** 2)
        inner = (c_bar * g * i * (1 - i), c_bar * c * f * (1 - f), c_bar * i * (1 - g**2))
        return jnp.concatenate([*inner, bars[0] * jnp.tanh(new) * o * (1 - o)], -1), c_bar * f

    return by_hand(lstm, lstm_forward, backward)


@wrong("local_derivative", args="f32[2,12] f32[2,3]")
def lstm_forget_gate_without_its_slope():
    """The forget gate is multiplied by the gate, not by its slope.  Source: CaptainE/RNN-LSTM-in-numpy issue 1."""

    def backward(saved, bars):
        i, f, g, o, c, new = saved
        c_bar = bars[1] + bars[0] * o * (1 - jnp.tanh(new) ** 2)
        inner = (c_bar * g * i * (1 - i), c_bar * c * f, c_bar * i * (1 - g**2))
        return jnp.concatenate([*inner, bars[0] * jnp.tanh(new) * o * (1 - o)], -1), c_bar * f

    return by_hand(lstm, lstm_forward, backward)


@wrong("permuted", args="f32[2,12] f32[2,3]")
def lstm_gates_in_another_order():
    """The gates are i f g o forward, and their cotangents are put together as i f o g."""

    def backward(saved, bars):
        i, f, g, o, c, new = saved
        c_bar = bars[1] + bars[0] * o * (1 - jnp.tanh(new) ** 2)
        o_bar = bars[0] * jnp.tanh(new) * o * (1 - o)
        return jnp.concatenate(
            [c_bar * g * i * (1 - i), c_bar * c * f * (1 - f), o_bar, c_bar * i * (1 - g**2)], -1
        ), c_bar * f

    return by_hand(lstm, lstm_forward, backward)


# --- cumulative ------------------------------------------------------------------------------------------------------


def later(g):
    """Sums of what comes at or after each place."""
    return jnp.cumsum(g[::-1], 0)[::-1]


def running_sum(x):
    return jnp.cumsum(x, 0)


@right(args="f32[1500]")
def cumsum_reversed():
    """A cumulative sum from the other end, over many elements."""
    return by_hand(running_sum, keeping(running_sum), lambda _, g: (later(g),))


@wrong("permuted", args="f32[6,2]")
def cumsum_not_reversed():
    """The cumulative sum of the cotangents from the same end."""
    return by_hand(running_sum, keeping(running_sum), lambda _, g: (jnp.cumsum(g, 0),))


@wrong("located", args="f32[1500]")
def cumsum_one_element_off_by_a_hundredth():
    """One element of fifteen hundred receives one part in a hundred too much."""
    return by_hand(running_sum, keeping(running_sum), lambda _, g: (later(g).at[777].multiply(1.01),))


def running_product(x):
    return jnp.cumprod(x, 0)


@right(args="f32[7]")
def cumprod_without_division():
    """Products before each place times a recurrence from behind, so that zeros do no harm."""

    def backward(saved, g):
        (x,) = saved
        ahead = jnp.concatenate([jnp.ones_like(x[:1]), jnp.cumprod(x)[:-1]])
        behind = jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])
        return (ahead * lax.associative_scan(compose, (behind, g), reverse=True)[1],)

    return by_hand(running_product, keeping(running_product), backward)


@wrong("not_finite", "values", args="f32[7]")
def cumprod_divided():
    """Divided by the input: not a number at zeros.  Source: tensorflow issue 3862, burn issue 3864."""

    def backward(saved, g):
        return (later(g * jnp.cumprod(saved[0])) / saved[0],)

    return by_hand(running_product, keeping(running_product), backward)


@wrong("values", "kink", args="f32[7]")
def cumprod_silenced():
    """Divided by the input, and zero where that is zero.  Source: tensorflow issue 119430."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.where(x == 0, 0, later(g * jnp.cumprod(x)) / jnp.where(x == 0, 1, x)),)

    return by_hand(running_product, keeping(running_product), backward)


def log_cumsum_exp(x):
    return lax.cumlogsumexp(x)


@right(args="f32[8]")
def logcumsumexp_shifted():
    """Weights exp(x_i − y_j) for i up to j, of which none exceeds one."""

    def backward(saved, g):
        x, y = saved
        among = jnp.arange(len(x))[:, None] <= jnp.arange(len(x))
        return (jnp.where(among, jnp.exp(jnp.where(among, x[:, None] - y, 0)), 0) @ g,)

    return by_hand(log_cumsum_exp, lambda x: (log_cumsum_exp(x), (x, log_cumsum_exp(x))), backward)


@wrong("local_derivative", "wrong_residual", args="f32[8]")
def logcumsumexp_normalised_twice():
    """The cotangent is multiplied by exp(−y) twice.  Source: a revision of pytorch pull 32876."""

    def backward(saved, g):
        x, y = saved
        return (jnp.exp(x) * later(g * jnp.exp(-y) * jnp.exp(-y)),)

    return by_hand(log_cumsum_exp, lambda x: (log_cumsum_exp(x), (x, log_cumsum_exp(x))), backward)


@wrong("not_finite", "values", args="f32[8]>=-1000<=1000")
def logcumsumexp_overflowing():
    """exp(x) and exp(−y) apart from each other: infinite times zero for large inputs."""

    def backward(saved, g):
        x, y = saved
        return (jnp.exp(x) * later(g * jnp.exp(-y)),)

    return by_hand(log_cumsum_exp, lambda x: (log_cumsum_exp(x), (x, log_cumsum_exp(x))), backward)


def running_maximum(x):
    return lax.cummax(x)


@right(args="f32[9]")
def cummax_to_the_leader():
    """Each output's cotangent goes to whoever led, the earliest of equal ones."""

    def backward(saved, g):
        (x,) = saved
        leads = x > jnp.concatenate([jnp.full_like(x[:1], -jnp.inf), lax.cummax(x)[:-1]])
        leader = lax.cummax(jnp.where(leads, jnp.arange(len(x)), 0))
        return (jnp.zeros_like(x).at[leader].add(g),)

    return by_hand(running_maximum, keeping(running_maximum), backward)


@wrong("missing_sum", "missing_path", args="f32[9]")
def cummax_where_equal():
    """The cotangent stays where the input equals the running maximum; what a leader gets later on is lost."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.where(x == lax.cummax(x), g, 0),)

    return by_hand(running_maximum, keeping(running_maximum), backward)
