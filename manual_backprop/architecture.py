"""Architectures as expressions: text that builds a rule, and that a rule prints as.

    serial(dense(5), relu, residual(serial(layer_norm(eps=0.1), tanh)), dense(3))

The grammar is Python's own, restricted to names of rules and combinators, their calls, and numbers.
"""

import ast
import difflib

from .combinators import COMBINATORS
from .rule import Elementary, Rule
from .rules import RULES


class ExpressionError(ValueError):
    """An expression that names no rule: where it went wrong, and what is allowed there."""


def build(expression: str) -> Rule:
    """The rule that an expression describes.

    >>> print(build("serial(dense(5), residual(tanh))"))
    serial(dense(5), residual(tanh))
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"{expression!r} is not an expression: {error.msg} at column {error.offset}") from None
    return _rule(tree.body, expression)


def _rule(node: ast.expr, expression: str) -> Rule:
    name, arguments, options = _call(node, expression)
    if name in COMBINATORS:
        if options:
            raise ExpressionError(f"{name} takes no options, but {options[0].arg} came")
        parts = [a.value if isinstance(a, ast.Constant) else _rule(a, expression) for a in arguments]
        return _apply(lambda: COMBINATORS[name](*parts), node, expression)
    if name in RULES:
        values = {option.arg: _constant(option.value, expression) for option in options}
        lengths = [_constant(argument, expression) for argument in arguments]
        return _apply(lambda: RULES[name].sized(*lengths).bind(**values), node, expression)
    close = difflib.get_close_matches(name, [*RULES, *COMBINATORS], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"rules: {', '.join(RULES)}"
    raise ExpressionError(f"unknown rule {name!r} at column {node.col_offset + 1}; {hint}")


def _call(node, expression):
    if isinstance(node, ast.Name):
        return node.id, [], []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id, node.args, node.keywords
    raise ExpressionError(f"{ast.unparse(node)!r} at column {node.col_offset + 1} is neither a rule nor a call of one")


def _constant(node, expression):
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ExpressionError(
            f"{ast.unparse(node)!r} at column {node.col_offset + 1}: a number or a constant was expected"
        ) from None


def _apply(make, node, expression):
    try:
        return make()
    except (TypeError, AttributeError) as error:
        raise ExpressionError(f"{ast.unparse(node)!r} at column {node.col_offset + 1}: {error}") from None


__all__ = ["Elementary", "ExpressionError", "build"]
