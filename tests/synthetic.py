"""Records that look like those of a real run, made of random numbers."""

import random
import statistics

DTYPES = ("float64", "float32", "bfloat16", "float16")
HALF = ("bfloat16", "float16")
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
CHECKS = ("value", "structure", "vjp", "jacrev", "jacfwd", "adjoint")
ORACLES = ("richardson", "complex_step")
NAMES = """
absolute add average_pool batch_norm categorical_cross_entropy clip concatenate convolution cosine_similarity
dense depthwise_convolution dropout elu embedding exp flatten gather gelu glu group_norm gru hard_sigmoid
hinge huber identity instance_norm kl_divergence layer_norm leaky_relu log log_softmax log_sum_exp lstm
max_pool mean mean_squared_error mish multi_head_attention multiply power prelu relu relu6 render_volume
rms_norm rnn scaled_dot_product selu sigmoid silu softmax softplus softsign sqrt sum swiglu tanh transpose
weight_norm xor
"""
RULES = NAMES.split()
LEAVES = (("x",), ("x", "w", "b"), ("x", "gamma", "beta"), ("params[0].w", "params[0].b", "x"))
HEADER = {
    "kind": "header",
    "format": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.13.1", "jax": "0.12.0", "jaxlib": "0.12.0", "numpy": "2.4.0", "manual-backprop": "0.1.0"},
    "platform": "cpu",
    "device": "4 cores of x86-64",
    "precisions": list(DTYPES),
    "seed": 17,
    "command": "manual-backprop run --seed 17 --architectures 200",
    "environment": {"XLA_FLAGS": "", "JAX_ENABLE_X64": "1", "operating system": "Linux 6.1"},
}
REPRODUCTION = "manual-backprop check --expression '{}' --input '(3, 4)' --values normal --seed {} --dtype {}"


def _finding(rng, family, subject, check, leaf, dtype, verdict="right", **more):
    # Every key has a scale of its own that is the same in every run, so that two records can be compared.
    own = random.Random(f"{subject} {check} {leaf} {dtype}")
    scale = 10 ** own.uniform(-2.2, -0.8)
    zero = own.random() < 0.12
    draws = [0.0 if zero else min(0.95, rng.expovariate(1) * scale) for _ in range(12)]
    ratio = max(draws) if verdict == "right" else 10 ** rng.uniform(0.3, 6)
    expected = rng.gauss(0, 1)
    line = {
        "kind": "finding",
        "family": family,
        "subject": subject,
        "check": check,
        "leaf": leaf,
        "dtype": dtype,
        "verdict": verdict,
        "absolute": ratio * 16 * EPS[dtype],
        "relative": ratio * 16 * EPS[dtype],
        "ulps": ratio * 16,
        "ratio": ratio,
        "mean_ratio": statistics.fmean(draws),
        "spread": statistics.pstdev(draws),
        "points": 12,
        "worst": {
            "index": [1, rng.randrange(4)],
            "got": expected * (1 + ratio * EPS[dtype] if verdict == "right" else 8),
            "expected": expected,
        },
        "diagnosis": None,
        "message": None,
        "reproduction": REPRODUCTION.format(subject, rng.randrange(99), dtype),
        "example": f"input=(3, {rng.randrange(1, 6)}) values=normal seed={rng.randrange(99)}",
    }
    return line | more


def _rules(rng, failing):
    for rule in RULES:
        for leaf in LEAVES[len(rule) % len(LEAVES)]:
            for dtype in DTYPES:
                for check in CHECKS + (ORACLES if dtype == "float64" else ()):
                    more = {}
                    if check == "complex_step" and "o" in rule:
                        reason = "the rule is not analytic" if "l" in rule else "a primal has a kink here"
                        more = {"verdict": "abstained", "message": f"complex_step abstains: {reason}"}
                        more |= dict.fromkeys(("ratio", "ulps", "relative", "absolute", "mean_ratio", "spread"), 0.0)
                    elif failing and rule == "layer_norm" and leaf == "gamma" and check in ("vjp", "jacrev"):
                        why = "off by a factor of 8 everywhere: the mean over 'batch' was taken twice"
                        more = {"verdict": "wrong", "diagnosis": why}
                    elif (
                        failing
                        and rule == "gru"
                        and leaf == "x"
                        and dtype in ("bfloat16", "float16")
                        and check == "value"
                    ):
                        why = "dot_general requires equal dtypes, got float32 and " + dtype
                        more = {"verdict": "raised", "message": f"TypeError: {why}.\n  in gru.forward, line 31"}
                        more |= dict.fromkeys(("ratio", "ulps", "relative", "absolute"), 0.0) | {"worst": None}
                    yield _finding(rng, "rule", rule, check, leaf, dtype, **more)


def _expression(rng, depth=0):
    if depth > 2 or rng.random() < 0.35:
        return rng.choice([f"dense({rng.randrange(1, 6)})", *rng.sample(RULES, 3)])
    parts = [_expression(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
    return f"{rng.choice(['serial', 'residual', 'parallel', 'shared', 'repeat'])}({', '.join(parts)})"


def _architectures(rng, number, failing):
    for i in range(number):
        expression = f"serial({_expression(rng)}, {_expression(rng)})"
        for dtype in DTYPES:
            for check in ("value", "structure", "vjp"):
                more = {}
                if failing and i == 3 and check == "vjp":
                    more = {"verdict": "wrong", "diagnosis": "params[1][0] is transposed"}
                leaf = rng.choice(["x", "params[0].w", "params[1][0]"])
                yield _finding(rng, "architecture", expression, check, leaf, dtype, **more)


def _curve(rng, subject, network, length):
    steps = list(range(length))
    loss = [1.6 * 0.985**step + 0.04 + 0.02 * rng.random() for step in steps]
    apart = [0.0 if step < 3 else rng.expovariate(1) * (1 + step / 40) for step in steps]
    return {
        "kind": "curve",
        "subject": subject,
        "network": network,
        "steps": steps,
        "loss_by_hand": loss,
        "loss_autodiff": [value * (1 + 1e-7 * rng.random()) for value in loss],
        "divergence_ulps": apart,
        "allowance_ulps": [40 + step for step in steps],
        "accuracy_by_hand": 0.9733,
        "accuracy_autodiff": 0.9733,
        "verdict": "right",
        "largest_divergence_ulps": max(apart),
        "seconds_by_hand": 1.31,
        "seconds_autodiff": 1.42,
    }


def lines(failing=True, architectures=200, seed=17):
    """The lines of a run: 60 rules, architectures, two curves, what lowers, and with `failing` some of each failure."""
    rng = random.Random(seed)
    yield HEADER
    yield from _rules(rng, failing)
    yield from _architectures(rng, architectures, failing)
    yield _curve(rng, "iris", "serial(dense(5), relu, dense(3), softmax_cross_entropy)", 300)
    yield _curve(rng, "digits", "serial(dense(32), layer_norm, gelu, dense(10), softmax_cross_entropy)", 1200)
    for rule in RULES:
        for part in ("forward", "backward"):
            for platform in ("cpu", "cuda", "tpu"):
                bad = failing and (rule, part, platform) == ("lstm", "backward", "tpu")
                yield {"kind": "lowering", "subject": rule, "part": part, "platform": platform, "lowers": not bad} | {
                    "message": "NotImplementedError: no translation of 'custom_scan' for tpu" if bad else None
                }
    pairs = [[a, b] for a in RULES[::7] for b in RULES[::9]]
    yield {"kind": "coverage", "pairs_possible": 3481, "pairs_seen": 3481 - len(pairs), "missing": pairs} | {
        "architectures": architectures,
        "rules_seen": 60,
    }
    yield {"kind": "end", "finished": True, "seconds": 252.4, "architectures": architectures} | {
        "architectures_per_second": 3.1
    }
