"""Recurrences: linear ones and state spaces, recurrent cells through time."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- the linear recurrence  h_t = a_t h_{t-1} + x_t ------------------------------------------------------------------


def linear(a, x, h0):
    """All states; a and x are (time, width), h0 is (width,)."""

    def step(h, inputs):
        h = inputs[0] * h + inputs[1]
        return h, h

    return lax.scan(step, h0, (a, x))[1]


def states(a, x, h0):
    h = linear(a, x, h0)
    return h, (a, h, h0)


def before(h, h0):
    """The state that each step began with."""
    return jnp.concatenate([h0[None], h[:-1]])


def reverse_linear(a, g):
    """h_bar_t = g_t + a_{t+1} h_bar_{t+1}, and what arrives at h0."""

    def step(carry, inputs):
        total = carry + inputs[1]
        return inputs[0] * total, total

    h0_bar, h_bar = lax.scan(step, jnp.zeros_like(g[0]), (a, g), reverse=True)
    return h_bar, h0_bar


def compose(later, now):
    """Two steps of the reversed recurrence as one."""
    return later[0] * now[0], now[0] * later[1] + now[1]


@right(args="f32[7,3] f32[7,3] f32[3]")
def recurrence_reversed():
    """A scan from the end, that carries what the next step sends back."""

    def backward(saved, g):
        a, h, h0 = saved
        h_bar, h0_bar = reverse_linear(a, g)
        return h_bar * before(h, h0), h_bar, h0_bar

    return by_hand(linear, states, backward)


@right(args="f32[7,3] f32[7,3] f32[3]")
def recurrence_associative():
    """The same as an associative scan, of decays shifted by one step."""

    def backward(saved, g):
        a, h, h0 = saved
        decay = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        h_bar = lax.associative_scan(compose, (decay, g), reverse=True)[1]
        return h_bar * before(h, h0), h_bar, a[0] * h_bar[0]

    return by_hand(linear, states, backward)


@wrong("permuted", "wrong_residual", "local_derivative", args="f32[7,3] f32[7,3] f32[3]")
def recurrence_decay_of_its_own_step():
    """What comes back from step t + 1 is multiplied by the decay of step t."""

    def backward(saved, g):
        a, h, h0 = saved
        h_bar = lax.associative_scan(compose, (a, g), reverse=True)[1]
        return h_bar * before(h, h0), h_bar, a[0] * h_bar[0]

    return by_hand(linear, states, backward)


@wrong("wrong_residual", args="f32[7,3] f32[7,3] f32[3]")
def recurrence_state_one_late():
    """The decay's cotangent is multiplied by the state after the step, not before it."""

    def backward(saved, g):
        a, h, _ = saved
        h_bar, h0_bar = reverse_linear(a, g)
        return h_bar * h, h_bar, h0_bar

    return by_hand(linear, states, backward)


@wrong("missing_path", args="f32[7,3] f32[7,3] f32[3]")
def recurrence_start_from_the_first_output():
    """The initial state hears from the first output alone."""

    def backward(saved, g):
        a, h, h0 = saved
        h_bar, _ = reverse_linear(a, g)
        return h_bar * before(h, h0), h_bar, a[0] * g[0]

    return by_hand(linear, states, backward)


@wrong("shape", "missing_path", "located", args="f32[9,2] f32[9,2] f32[2]")
def recurrence_blocks_not_chained():
    """Backward in blocks of four steps, and nothing is carried over a block's edge; right up to four steps.

    Source: the carry between blocks of proger/accelerated-scan pull 15.
    """

    def backward(saved, g):
        a, h, h0 = saved
        blocks = [reverse_linear(a[i : i + 4], g[i : i + 4]) for i in range(0, len(g), 4)]
        h_bar = jnp.concatenate([block for block, _ in blocks])
        return h_bar * before(h, h0), h_bar, blocks[0][1]

    return by_hand(linear, states, backward)


@right(args="f32[9,2] f32[9,2] f32[2]")
def recurrence_blocks_chained():
    """Backward in blocks of four steps, the last one short, each given what the next sends back."""

    def backward(saved, g):
        a, h, h0 = saved
        carry, blocks = jnp.zeros_like(h0), []
        for i in reversed(range(0, len(g), 4)):
            block = g[i : i + 4]
            h_bar, carry = reverse_linear(a[i : i + 4], block.at[-1].add(carry))
            blocks.insert(0, h_bar)
        h_bar = jnp.concatenate(blocks)
        return h_bar * before(h, h0), h_bar, carry

    return by_hand(linear, states, backward)


@wrong("cancellation", "values", args="f32[60]>0.1<0.6 f32[60] f32[]")
def recurrence_reconstructed():
    """To save memory the states are found again from the last one, h = (h' − x) / a, which loses every digit."""

    def forward(a, x, h0):
        h = linear(a, x, h0)
        return h, (a, x, h[-1])

    def backward(saved, g):
        a, x, last = saved
        h_bar, h0_bar = reverse_linear(a, g)

        def step(h, inputs):
            h = (h - inputs[1]) / inputs[0]
            return h, h

        return h_bar * lax.scan(step, last, (a, x), reverse=True)[1], h_bar, h0_bar

    return by_hand(linear, forward, backward)


def with_last(a, x, h0):
    h = linear(a, x, h0)
    return h, h[-1]


@wrong("missing_path", args="f32[5,3] f32[5,3] f32[3]")
def recurrence_last_state_forgotten():
    """Two outputs, all states and the last, and the last one's cotangent is not looked at.

    Source: deeplearning4j issue 8838.
    """

    def forward(a, x, h0):
        h = linear(a, x, h0)
        return (h, h[-1]), (a, h, h0)

    def backward(saved, bars):
        a, h, h0 = saved
        h_bar, h0_bar = reverse_linear(a, bars[0])
        return h_bar * before(h, h0), h_bar, h0_bar

    return by_hand(with_last, forward, backward)


@right(args="f32[5,3] f32[5,3] f32[3]")
def recurrence_last_state_added():
    """The last state's cotangent joins that of the last of all states."""

    def forward(a, x, h0):
        h = linear(a, x, h0)
        return (h, h[-1]), (a, h, h0)

    def backward(saved, bars):
        a, h, h0 = saved
        h_bar, h0_bar = reverse_linear(a, bars[0].at[-1].add(bars[1]))
        return h_bar * before(h, h0), h_bar, h0_bar

    return by_hand(with_last, forward, backward)


# --- a selective state space:  h_t = exp(δ_t a) h_{t-1} + δ_t x_t,  δ = softplus(raw) ---------------------------------


def selective(raw, a, x):
    delta = jnp.logaddexp(raw, 0)
    return linear(jnp.exp(delta * a), delta * x, jnp.zeros_like(x[0]))


def selective_bars(raw, a, x, h_bar):
    """The primals' cotangents from the states': δ has two roads, through the decay and through the input."""
    delta, h0 = jnp.logaddexp(raw, 0), jnp.zeros_like(x[0])
    decay = jnp.exp(delta * a)
    decay_bar = h_bar * before(linear(decay, delta * x, h0), h0) * decay
    return (decay_bar * a + h_bar * x) * jax.nn.sigmoid(raw), (decay_bar * delta).sum(0), h_bar * delta


def selective_states_bar(raw, a, g):
    return reverse_linear(jnp.exp(jnp.logaddexp(raw, 0) * a), g)[0]


@right(args="f32[6,2] f32[2] f32[6,2]")
def selective_scan():
    """The states are computed anew from the primals."""

    def backward(saved, g):
        raw, a, x = saved
        return selective_bars(raw, a, x, selective_states_bar(raw, a, g))

    return by_hand(selective, keeping(selective), backward)


@wrong("missing_path", args="f32[6,2] f32[2] f32[6,2]")
def selective_scan_step_in_the_decay_alone():
    """δ's road through the input is forgotten."""

    def backward(saved, g):
        raw, a, x = saved
        h_bar = selective_states_bar(raw, a, g)
        raw_bar, a_bar, x_bar = selective_bars(raw, a, x, h_bar)
        return raw_bar - h_bar * x * jax.nn.sigmoid(raw), a_bar, x_bar

    return by_hand(selective, keeping(selective), backward)


@wrong("missing_sum", "located", "missing_path", args="f32[6,2] f32[2] f32[6,2]")
def selective_scan_rate_of_the_last_step():
    """The rate is shared by all steps and hears from the last one alone."""

    def backward(saved, g):
        raw, a, x = saved
        delta, h0 = jnp.logaddexp(raw, 0), jnp.zeros_like(x[0])
        decay = jnp.exp(delta * a)
        h_bar = selective_states_bar(raw, a, g)
        decay_bar = h_bar * before(linear(decay, delta * x, h0), h0) * decay
        raw_bar, _, x_bar = selective_bars(raw, a, x, h_bar)
        return raw_bar, (decay_bar * delta)[-1], x_bar

    return by_hand(selective, keeping(selective), backward)


def selective_last(raw, a, x):
    return selective(raw, a, x)[-1]


@right(args="f32[6,2] f32[2] f32[6,2]")
def selective_last_state():
    """The last state alone: each step sends back through the product of all later decays."""

    def backward(saved, g):
        raw, a, x = saved
        return selective_bars(raw, a, x, g * jnp.exp(a * later_sum(jnp.logaddexp(raw, 0))))

    def later_sum(delta):
        return jnp.cumsum(delta[::-1], 0)[::-1] - delta

    return by_hand(selective_last, keeping(selective_last), backward)


@wrong("shape", "factor", args="f32[6,2] f32[2] f32[6,2]")
def selective_last_state_padded_before_softplus():
    """Steps are padded to chunks of four before the softplus, which is not 0 at 0; right where chunks are filled.

    Source: state-spaces/mamba issue 368.
    """

    def backward(saved, g):
        raw, a, x = saved
        delta = jnp.logaddexp(jnp.pad(raw, ((0, -len(raw) % 4), (0, 0))), 0)
        later = jnp.cumsum(delta[::-1], 0)[::-1] - delta
        return selective_bars(raw, a, x, g * jnp.exp(a * later[: len(raw)]))

    return by_hand(selective_last, keeping(selective_last), backward)


# --- a plain cell  h' = tanh(x W + h U + b) ---------------------------------------------------------------------------


def plain(x, w, u, b, h0):
    """All states: x (time, i), w (i, h), u (h, h), b (h,)."""

    def step(h, x):
        h = jnp.tanh(x @ w + h @ u + b)
        return h, h

    return lax.scan(step, h0, x)[1]


def plain_forward(x, w, u, b, h0):
    h = plain(x, w, u, b, h0)
    return h, (x, w, u, h, h0)


def through_time(h, u, g, reach=None):
    """The cotangents of what is inside each tanh; `reach` steps back at most."""

    def step(carry, inputs):
        h, g, t = inputs
        inside = (g + carry) * (1 - h**2)
        send = inside @ u.T
        return (send if reach is None else jnp.where(t % reach == 0, 0, send)), inside

    return lax.scan(step, jnp.zeros_like(g[0]), (h, g, jnp.arange(len(g))), reverse=True)[1]


@right(args="f32[5,2] f32[2,3] f32[3,3] f32[3] f32[3]")
def plain_cell():
    """Backpropagation through time."""

    def backward(saved, g):
        x, w, u, h, h0 = saved
        z = through_time(h, u, g)
        return z @ w.T, x.T @ z, before(h, h0).T @ z, z.sum(0), z[0] @ u.T

    return by_hand(plain, plain_forward, backward)


@wrong("shape", "missing_path", args="f32[7,2] f32[2,3] f32[3,3] f32[3] f32[3]")
def plain_cell_truncated():
    """Nothing is sent back over every third step; right up to three steps."""

    def backward(saved, g):
        x, w, u, h, h0 = saved
        z = through_time(h, u, g, reach=3)
        return z @ w.T, x.T @ z, before(h, h0).T @ z, z.sum(0), z[0] @ u.T

    return by_hand(plain, plain_forward, backward)


@wrong("missing_sum", "located", "missing_path", args="f32[5,2] f32[2,3] f32[3,3] f32[3] f32[3]")
def plain_cell_weights_of_the_last_step():
    """The weights' cotangent is assigned at each step instead of added to: the first step's stays."""

    def backward(saved, g):
        x, w, u, h, h0 = saved
        z = through_time(h, u, g)
        return z @ w.T, jnp.outer(x[0], z[0]), jnp.outer(h0, z[0]), z[0], z[0] @ u.T

    return by_hand(plain, plain_forward, backward)


@wrong("dropped", args="f32[5,2] f32[2,3] f32[3,3] f32[3] f32[3]")
def plain_cell_start_taken_for_a_constant():
    """The initial state is given no cotangent."""

    def backward(saved, g):
        x, w, u, h, h0 = saved
        z = through_time(h, u, g)
        return z @ w.T, x.T @ z, before(h, h0).T @ z, z.sum(0), jnp.zeros_like(h0)

    return by_hand(plain, plain_forward, backward)


@wrong("permuted", "local_derivative", args="f32[5,2] f32[2,3] f32[3,3] f32[3] f32[3]")
def plain_cell_recurrent_weight_not_transposed():
    """The square recurrent weight is not transposed on the way back."""

    def backward(saved, g):
        x, w, u, h, h0 = saved
        z = through_time(h, u.T, g)
        return z @ w.T, x.T @ z, before(h, h0).T @ z, z.sum(0), z[0] @ u

    return by_hand(plain, plain_forward, backward)
