"""Architectures as expressions: text that builds a rule, and that a rule prints as.

    serial(dense(5), relu, residual(serial(layer_norm(eps=0.1), tanh)), dense(3))

The grammar is Python's own, restricted to names of rules and combinators, their calls, and numbers.
"""

import ast
import difflib

from .combinators import COMBINATORS
from .rule import Elementary, Rule
from .rules import RULES
from .signature import SignatureError


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
        where = f" at column {error.offset}" if error.offset else ""
        raise ExpressionError(f"{_short(expression)} is not an expression: {error.msg}{where}") from None
    except (ValueError, MemoryError, RecursionError):  # a null byte, or brackets deeper than the parser goes
        raise ExpressionError(f"{_short(expression)} is not an expression that can be read") from None
    return _rule(tree.body)


def _rule(node: ast.expr) -> Rule:
    name, arguments, options = _call(node)
    if name in COMBINATORS:
        if options:
            raise ExpressionError(f"{name} takes no options, but {options[0].arg or '**'} came")
        parts = [_part(argument) for argument in arguments]
        return _apply(lambda: COMBINATORS[name](*parts), node)
    if name in RULES:
        lengths = [_constant(argument) for argument in arguments]
        values = {option.arg or "**": _constant(option.value) for option in options}
        return _apply(lambda: _bound(RULES[name], lengths, values), node)
    close = difflib.get_close_matches(name, [*RULES, *COMBINATORS], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"rules: {', '.join(RULES)}"
    raise ExpressionError(f"unknown rule {_short(name)}{_column(node)}; {hint}")


def _bound(rule: Elementary, lengths, values) -> Elementary:
    sized = rule.sized(*lengths)
    if twice := [name for name in values if name in sized.sizes]:
        raise SignatureError(f"{rule.name}: the length {twice[0]} came twice")
    return sized.bind(**values)


def _call(node):
    if isinstance(node, ast.Name):
        return node.id, [], []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id, node.args, node.keywords
    raise ExpressionError(
        f"{_short(ast.unparse(node))}{_column(node)} is neither a rule nor a call of one, nor a number"
    )


def _part(node):
    """An argument of a combinator: a rule, or the number that repeat takes."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _rule(node)


def _constant(node):
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        message = f"{_short(ast.unparse(node))}{_column(node)}: a number or a constant was expected"
        raise ExpressionError(message) from None


def _apply(make, node):
    try:
        return make()
    except SignatureError as error:
        raise ExpressionError(f"{_short(ast.unparse(node))}{_column(node)}: {error}") from None


def _column(node):
    return f" at column {node.col_offset + 1}"


def _short(text):
    return repr(text if len(text) <= 60 else text[:57] + "...")


__all__ = ["Elementary", "ExpressionError", "build"]
