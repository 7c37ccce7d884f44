"""The slope of every elementwise rule, derived by hand as a plain function of its input.

The rules' own backward passes compute the same in other ways, mostly from the output; these are the textbook forms.
At kinks each takes the convention of its rule.
"""

import math

import numpy as np


def sigma(x):
    """σ(x) = 1 / (1 + e⁻ˣ), where neither tail overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _gelu(x, approximate):
    if approximate:
        c = 2 * math.sqrt(2 / math.pi)
        gate = sigma(c * (x + 0.044715 * x**3))
        return gate + x * gate * (1 - gate) * c * (1 + 3 * 0.044715 * x**2)
    cdf = np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[float])(x)
    return cdf + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _mish(x):
    t = np.tanh(np.log1p(np.exp(x)))
    return t + x * (1 - t**2) * sigma(x)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

# name: (formula of f'(x), function of x and of the rule's options)
SLOPES = {
    "identity": ("1", lambda x: np.ones_like(x)),
    "log": ("1/x", lambda x: 1 / x),
    "sqrt": ("1 / (2√x)", lambda x: 1 / (2 * np.sqrt(x))),
    "relu": ("[x > 0]", lambda x: (x > 0).astype(float)),
    "relu6": ("[0 < x < 6]", lambda x: ((x > 0) & (x < 6)).astype(float)),
    "leaky_relu": ("1 where x ≥ 0, a elsewhere", lambda x, negative_slope: np.where(x >= 0, 1, negative_slope)),
    "elu": ("1 where x > 0, α eˣ elsewhere", lambda x, alpha: np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))),
    "celu": ("1 where x > 0, e^(x/α) elsewhere", lambda x, alpha: np.where(x > 0, 1, np.exp(np.minimum(x, 0) / alpha))),
    "selu": (
        "λ where x > 0, λ α eˣ elsewhere",
        lambda x: SELU_SCALE * np.where(x > 0, 1, SELU_ALPHA * np.exp(np.minimum(x, 0))),
    ),
    "softplus": ("σ(x)", sigma),
    "sparse_plus": ("(min(max(x, −1), 1) + 1) / 2", lambda x: (np.clip(x, -1, 1) + 1) / 2),
    "squareplus": ("(1 + x / √(x² + b)) / 2", lambda x, b: (1 + x / np.sqrt(x**2 + b)) / 2),
    "tanh": ("1 − tanh² x = 1 / cosh² x", lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": ("σ(x) (1 − σ(x))", lambda x: sigma(x) * sigma(-x)),
    "log_sigmoid": ("σ(−x)", lambda x: sigma(-x)),
    "soft_sign": ("1 / (1 + |x|)²", lambda x: 1 / (1 + np.abs(x)) ** 2),
    "hard_tanh": ("[|x| ≤ 1]", lambda x: (np.abs(x) <= 1).astype(float)),
    "hard_sigmoid": ("[|x| < 3] / 6", lambda x: (np.abs(x) < 3) / 6),
    "sparse_sigmoid": ("(1 + sign(1 − |x|)) / 4", lambda x: (1 + np.sign(1 - np.abs(x))) / 4),
    "silu": ("σ(x) (1 + x σ(−x))", lambda x: sigma(x) * (1 + x * sigma(-x))),
    "hard_silu": (
        "(2x + 3) / 6 where |x| < 3, [x > 0] elsewhere",
        lambda x: np.where(np.abs(x) < 3, (2 * x + 3) / 6, x > 0),
    ),
    "gelu": ("Φ(x) + x Φ'(x)", _gelu),
    "mish": ("t + x (1 − t²) σ(x), t = tanh(log(1 + eˣ))", _mish),
}

__all__ = ["SLOPES", "sigma"]
