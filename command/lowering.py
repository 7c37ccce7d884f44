"""Whether a rule's two halves lower for CPU, GPU and TPU, found out by `jax.export` without any such device."""

import jax
import jax.numpy as jnp
from jax import export

from manual_backprop.reference.points import input_leaves, instances
from manual_backprop.signature import is_leaf

PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = {"float": jnp.float32, "integer": jnp.int32, "boolean": jnp.bool_}


def lower(rule) -> list[dict]:
    """One record line for each half of a rule and each platform."""
    primals, cotangent = _structs(rule)
    lines = _lower_half(rule.name, "forward", rule.forward, primals)
    try:
        residuals = jax.eval_shape(rule.forward, *primals)[1]
    except Exception as error:  # whatever a half raises is a line of the record, not the end of the run
        message = f"no residuals: {_sentence(error)}"
        return lines + [_line(rule.name, "backward", platform, message) for platform in PLATFORMS]
    return lines + _lower_half(rule.name, "backward", rule.backward, (residuals, cotangent))


def _structs(rule):
    """Shapes and dtypes of a rule's primals and of its output's cotangent, at the lengths of a first instance."""
    bound, shape = next(instances(rule, 1, 0))
    x = input_leaves(bound, shape)
    parameters, output = bound.shapes(x)
    return jax.tree.map(_struct, (x, *parameters), is_leaf=is_leaf), jax.tree.map(_struct, output, is_leaf=is_leaf)


def _struct(leaf):
    dtype = jax.random.key(0).dtype if leaf.kind == "key" else DTYPES[leaf.kind]
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def _lower_half(subject, part, function, arguments):
    """All platforms at once; one by one only where that fails, to tell which of them it is."""
    if _failure(function, arguments, PLATFORMS) is None:
        return [_line(subject, part, platform, None) for platform in PLATFORMS]
    return [_line(subject, part, platform, _failure(function, arguments, (platform,))) for platform in PLATFORMS]


def _failure(function, arguments, platforms) -> str | None:
    try:
        export.export(jax.jit(function), platforms=platforms)(*arguments)
    except Exception as error:
        return _sentence(error)
    return None


def _sentence(error):
    first = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {first}"


def _line(subject, part, platform, message):
    line = {"kind": "lowering", "subject": subject, "part": part, "platform": platform}
    return {**line, "lowers": message is None, "message": message}
