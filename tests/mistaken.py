"""A dozen definitions with derivatives written by hand that are right, but for the one mistake that `wrong` names."""

import jax.numpy as jnp
import numpy as np
from jax import lax

EPS = 1e-5


def softmax(x):
    e = jnp.exp(x)
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_back(y_bar, x, wrong=""):
    y = softmax(x)
    inner = jnp.sum(y * y_bar, axis=-1, keepdims=True)
    return {
        "held": y * y_bar,
        "diagonal": y * (1 - y) * y_bar,
        "clipped": y * (jnp.clip(y_bar, -1, 1) - jnp.sum(y * jnp.clip(y_bar, -1, 1), -1, keepdims=True)),
    }.get(wrong, y * (y_bar - inner))


def layer_norm(x, gamma, beta):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mu) ** 2, axis=-1, keepdims=True)
    return (x - mu) / jnp.sqrt(variance + EPS) * gamma + beta


def layer_norm_back(y_bar, x, gamma, beta, wrong=""):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    eps = {"no_epsilon": 0.0, "large_epsilon": 1e-3}.get(wrong, EPS)
    sigma = jnp.sqrt(jnp.mean((x - mu) ** 2, axis=-1, keepdims=True) + eps)
    if wrong == "epsilon_outside":
        sigma = jnp.sqrt(jnp.mean((x - mu) ** 2, axis=-1, keepdims=True)) + EPS
    x_hat = (x - mu) / sigma
    scaled = y_bar if wrong == "gamma_forgotten" else y_bar * gamma
    mean, projection = (jnp.mean(a, axis=-1, keepdims=True) for a in (scaled, scaled * x_hat))
    mean, projection = (
        0 if wrong in (term, "constant") else a for term, a in (("mean", mean), ("variance", projection))
    )
    x_bar = (scaled - mean - x_hat * projection) / sigma
    if wrong == "epsilon_outside":  # the derivative of x̂ = c / (√v + ε), written out
        root = sigma - EPS
        inner = scaled / sigma - x_hat * jnp.mean(scaled * x_hat, -1, keepdims=True) / root
        x_bar = inner - jnp.mean(inner, -1, keepdims=True)
    gamma_bar, beta_bar = jnp.sum(y_bar * x_hat, axis=0), jnp.sum(y_bar, axis=0)
    return {
        "exchanged": (x_bar, beta_bar, gamma_bar),
        "first_row": (x_bar, gamma_bar, y_bar[0]),
        "row_mean": (x_bar, gamma_bar, jnp.mean(y_bar, axis=0)),
    }.get(wrong, (x_bar, gamma_bar, beta_bar))


def dense(x, w, b):
    return jnp.tanh(x @ w + b)


def dense_back(y_bar, x, w, b, wrong=""):
    y = dense(x, w, b)
    inner = x @ w + b if wrong == "from_its_input" else y
    slope = {"no_square": 1 - y, "no_slope": jnp.ones_like(y)}.get(wrong, 1 - inner**2)
    z_bar = y_bar * slope
    x_bar = z_bar @ (w if wrong == "not_transposed" else w.T)
    w_bar = x.T @ z_bar
    return {
        "sign": (x_bar, -w_bar, b * 0 + z_bar.sum(0)),
        "transposed": (x_bar, w_bar.T, z_bar.sum(0)),
        "reversed": (x_bar, w_bar, z_bar.sum(0)[::-1]),
        "dropped": (x_bar, w_bar, jnp.zeros_like(b)),
        "last_row": (x_bar, w_bar, z_bar[-1]),
        "mean": (x_bar, w_bar / len(x), z_bar.sum(0)),
        "corner": (x_bar, w_bar.at[-1].multiply(1.01), z_bar.sum(0)),
    }.get(wrong, (x_bar, w_bar, z_bar.sum(0)))


def attention(q, k, v):
    scores = q @ k.T / jnp.sqrt(q.shape[-1] * 1.0)
    weights = jnp.exp(scores) / jnp.sum(jnp.exp(scores), axis=-1, keepdims=True)
    return weights @ v


def attention_back(o_bar, q, k, v, wrong=""):
    root = q.shape[-1] ** 0.5
    p = softmax(q @ k.T / root)
    p_bar = o_bar @ v.T
    s_bar = softmax_back(p_bar, q @ k.T / root, "held" if wrong == "normaliser" else "")
    scale = 1 if wrong == "scale" else root
    return s_bar @ k / scale, s_bar.T @ q / root, (p if wrong == "weights" else p.T) @ o_bar


def weighted_mean(x, weights):
    return jnp.sum(x * weights) / jnp.sum(weights)


def weighted_mean_back(y_bar, x, weights, wrong=""):
    total = jnp.sum(weights)
    inner = x if wrong == "total_held" else x - weighted_mean(x, weights)
    return y_bar * weights / (1 if wrong == "not_divided" else total), y_bar * inner / total


def logsumexp(x):
    return jnp.log(jnp.sum(jnp.exp(x), axis=-1))


def logsumexp_back(y_bar, x, wrong=""):
    if wrong == "sum":
        return softmax(x) * jnp.sum(y_bar)
    return softmax(x) * y_bar[:, None]


def rms_norm(x, gamma):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True)) * gamma


def rms_norm_back(y_bar, x, gamma, wrong=""):
    rms = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True))
    y_bar = jnp.ones_like(y_bar) if wrong == "ones" else y_bar
    scaled = y_bar * gamma
    twice = 2 if wrong == "twice" else 1
    projection = twice * jnp.mean(scaled * x, axis=-1, keepdims=True) / rms**3
    if wrong == "plus":
        projection = -projection
    if wrong == "rounded":
        projection = projection.astype(jnp.float16).astype(x.dtype)
    if wrong == "held":
        projection = 0
    return scaled / rms - x * projection, jnp.sum(y_bar * x / rms, axis=0)


def recurrence(xs, h, w):
    def step(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h

    return lax.scan(step, h, xs)[1]


def recurrence_back(ys_bar, xs, h, w, wrong=""):
    hs = [h]
    for x in xs:
        hs.append(jnp.tanh(w @ hs[-1] + x))
    h_bar, w_bar, xs_bar = jnp.zeros_like(h), jnp.zeros_like(w), []
    for t in reversed(range(len(xs))):
        z_bar = (ys_bar[t] + h_bar) * (1 - hs[t + 1] ** 2)
        xs_bar.append(z_bar)
        w_bar = w_bar + jnp.outer(z_bar, hs[t + 1 if wrong == "late" else t])
        h_bar = 0 * h if wrong == "truncated" else w.T @ z_bar
    return jnp.stack(xs_bar[::-1]), h_bar, w_bar


def gelu(x):
    return x * (0.5 * (1 + lax.erf(x / np.sqrt(2.0))))


def gelu_back(y_bar, x, wrong=""):
    phi, density = 0.5 * (1 + lax.erf(x / np.sqrt(2.0))), jnp.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    if wrong == "cut_off":
        density = jnp.where(x > 0.5, 0, density)
    return y_bar * (phi + (0 if wrong == "held" else x * density))


def hinge(x):
    return jnp.maximum(1 - x, 0)


def hinge_back(y_bar, x, wrong=""):
    slope = jnp.where(x < 1, -1.0, 0.0)
    at_kink = 1.0 if wrong == "kink" else -0.5
    return y_bar * jnp.where(x == 1, at_kink, slope)


def gather(table, indices):
    return table[indices]


def gather_back(y_bar, table, indices, wrong=""):
    put = jnp.zeros_like(table).at[indices]
    return (put.set(y_bar) if wrong == "overwritten" else put.add(y_bar)), None


def blur(x):
    padded = jnp.pad(x, 1, mode="edge")
    return (padded[:-2] + 2 * padded[1:-1] + 3 * padded[2:]) / 6


def blur_back(y_bar, x, wrong=""):
    matrix = jnp.stack([blur(row) for row in np.eye(8, dtype=np.float32)], axis=1)
    return (matrix if wrong == "itself" else matrix.T) @ y_bar


def polynomial(x, y):
    return x**3 * y + jnp.sin(x)


def polynomial_back(z_bar, x, y, wrong=""):
    twice = 2 if wrong == "twice" else 1
    slope = {"factor": 2 * x**2, "order": 3 * x}.get(wrong, 3 * x**2)
    return z_bar * (slope * y * twice + jnp.cos(x)), z_bar * x**3


# --- examples of their primals ---------------------------------------------------------------------------------------

EXAMPLES = {
    softmax: [(4, 5)],
    layer_norm: [(5, 6), (6,), (6,)],
    dense: [(5, 4), (4, 4), (4,)],
    attention: [(4, 3), (4, 3), (4, 3)],
    weighted_mean: [(6,), (6,)],
    logsumexp: [(4, 5)],
    rms_norm: [(3, 5), (5,)],
    recurrence: [(4, 3), (3,), (3, 3)],
    gelu: [(14,)],
    hinge: [(8,)],
    blur: [(8,)],
    gather: [(4, 3), "indices"],
    polynomial: [(7,), (7,)],
}
NAMES = {layer_norm: ("x", "gamma", "beta"), dense: ("x", "w", "b"), attention: ("q", "k", "v")}
BACK = {definition: globals()[f"{definition.__name__}_back"] for definition in EXAMPLES}


def example(definition, rng, dtype):
    drawn = [np.asarray([1, 3, 1, 0, 3]) if s == "indices" else rng.standard_normal(s) for s in EXAMPLES[definition]]
    if definition is hinge:
        drawn[0][[1, 4, 6]] = 1.0
    if definition is weighted_mean:
        drawn[1] = np.abs(drawn[1]) + 0.5
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn)


def names_of(definition):
    return NAMES.get(definition, ("x", "y", "z")[: len(EXAMPLES[definition])])
