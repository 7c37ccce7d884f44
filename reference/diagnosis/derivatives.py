"""The derivatives of the elementary primitives as they are written by hand, and what is often written instead.

Each is a function of the operands a and b, or of the result y, named by the letters of its arguments.
"""

import math

import numpy as np

_ROOT_PI = math.sqrt(math.pi)

DERIVATIVES = {
    ("exp", 0): [("y", lambda y: y), ("a", np.exp)],
    ("log", 0): [("a", lambda a: 1 / a)],
    ("log1p", 0): [("a", lambda a: 1 / (1 + a))],
    ("expm1", 0): [("a", np.exp), ("y", lambda y: y + 1)],
    ("tanh", 0): [("y", lambda y: 1 - y * y), ("a", lambda a: 1 - np.tanh(a) ** 2)],
    ("logistic", 0): [("y", lambda y: y * (1 - y)), ("a", lambda a: 1 / (2 + np.exp(a) + np.exp(-a)))],
    ("sqrt", 0): [("y", lambda y: 0.5 / y), ("a", lambda a: 0.5 / np.sqrt(a))],
    ("rsqrt", 0): [("y", lambda y: -(y**3) / 2), ("a", lambda a: -0.5 * a**-1.5)],
    ("sin", 0): [("a", np.cos)],
    ("cos", 0): [("a", lambda a: -np.sin(a))],
    ("erf", 0): [("a", lambda a: 2 / _ROOT_PI * np.exp(-a * a))],
    ("square", 0): [("a", lambda a: 2 * a)],
    ("abs", 0): [("a", np.sign)],
    ("mul", 0): [("b", lambda b: b)],
    ("mul", 1): [("a", lambda a: a)],
    ("div", 0): [("b", lambda b: 1 / b)],
    ("div", 1): [("ab", lambda a, b: -a / b**2), ("yb", lambda y, b: -y / b)],
    ("pow", 0): [("ab", lambda a, b: b * a ** (b - 1)), ("yab", lambda y, a, b: b * y / a)],
    ("pow", 1): [("ya", lambda y, a: y * np.log(a)), ("ab", lambda a, b: a**b * np.log(a))],
}
MISTAKEN = {
    ("tanh", 0): [
        ("1 - y", "y", lambda y: 1 - y),
        ("y²", "y", lambda y: y * y),
        ("1 - y² of y = its slope", "y", lambda y: 1 - (1 - y * y) ** 2),
    ],
    ("logistic", 0): [("y", "y", lambda y: y), ("1 - y", "y", lambda y: 1 - y), ("1 - y²", "y", lambda y: 1 - y * y)],
    ("log", 0): [("1 / a²", "a", lambda a: 1 / a**2), ("1 / y", "y", lambda y: 1 / y)],
    ("sqrt", 0): [
        ("1 / y", "y", lambda y: 1 / y),
        ("1 / (2 a)", "a", lambda a: 0.5 / a),
        ("y / 2", "y", lambda y: y / 2),
    ],
    ("rsqrt", 0): [
        ("y³ / 2", "y", lambda y: y**3 / 2),
        ("-y² / 2", "y", lambda y: -y * y / 2),
        ("-y / 2", "y", lambda y: -y / 2),
    ],
    ("square", 0): [("a", "a", lambda a: a), ("a²", "a", lambda a: a * a)],
    ("sin", 0): [("sin", "a", np.sin), ("-cos", "a", lambda a: -np.cos(a))],
    ("cos", 0): [("sin", "a", np.sin), ("cos", "a", np.cos)],
    ("erf", 0): [("exp(-a²)", "a", lambda a: np.exp(-a * a)), ("exp(-a² / 2)", "a", lambda a: np.exp(-a * a / 2))],
    ("div", 1): [
        ("-1 / b²", "b", lambda b: -1 / b**2),
        ("-a / b", "ab", lambda a, b: -a / b),
        ("1 / b", "b", lambda b: 1 / b),
    ],
    ("mul", 0): [("a", "a", lambda a: a)],
    ("mul", 1): [("b", "b", lambda b: b)],
}


def forms(use):
    """The derivative with respect to the operand that is used, in several forms."""
    if use.primitive == "integer_pow":
        n = float(use.equation.params["y"])
        return [("a", lambda a: n * a ** (n - 1))]
    return DERIVATIVES.get((use.primitive, use.operand), [])


def mistaken(use) -> list:
    """What is often written instead: words, letters, function."""
    if use.primitive == "integer_pow":
        n = float(use.equation.params["y"])
        return [
            (f"{n:g} a", "a", lambda a: n * a),
            (f"a^{n - 1:g}", "a", lambda a: a ** (n - 1)),
            (f"{n:g} a^{n:g}", "a", lambda a: n * a**n),
            (f"{n - 1:g} a^{n - 1:g}", "a", lambda a: (n - 1) * a ** (n - 1)),
        ]
    return MISTAKEN.get((use.primitive, use.operand), [])
