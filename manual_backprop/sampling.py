"""Random architectures: expressions over all rules and combinators, drawn from a `random.Random`.

Hypothesis hands out such an object too (`strategies.randoms`), so the same grammar serves a seeded run and a test
that shrinks: the smallest numbers draw the simplest network.  Lengths come from a short menu, since every rule is
compiled once per shape.
"""

import contextlib
import functools
import itertools
from random import Random

from .combinators import Network, checkpointed, concatenate, fan_out, parallel, repeat, residual, scan, serial, tied
from .rule import Elementary, Rule
from .rules import RULES
from .signature import Leaf, Signature, SignatureError, is_leaf, with_sizes

BATCHES = ((3,), (2, 3), (1,))
WIDTHS = (4, 6, 3, 1)
DEPTH = 12
COMMON = 0.9  # how often a length is the first of its menu: what is compiled for it serves the next network too


def architecture(random: Random, depth: int = DEPTH) -> tuple[Rule, tuple]:
    """A network of at most `depth` layers in series, and the shape of an input that it reads."""
    x = _leaf(random)
    first = _one(random, x)
    if random.random() > 0.8:
        first, x = _opening(random)
    layers = [first]
    out = first.shapes(x)[1]
    while len(layers) < depth and random.random() > 0.15:
        try:
            layer = _layer(random, out, depth=2)
        except SignatureError:  # nothing reads this output: the architecture ends here
            break
        layers.append(layer)
        out = layer.shapes(out)[1]
    return serial(*layers), _shape(x)


def _leaf(random):
    return Leaf("float", (*_skewed(random, BATCHES), _skewed(random, WIDTHS)))


def _skewed(random, menu):
    """The first entry most of the time, so that few shapes carry the load and the others still occur."""
    return menu[0] if random.random() < COMMON else random.choice(menu)


def _opening(random):
    """A rule that only an input of its own can feed: integers, a restricted domain, a pair."""
    rule = _sized(random, RULES[random.choice(_openings())])
    sizes = {name: _skewed(random, BATCHES if name[0] == "*" else WIDTHS) for name in rule.signature.sizes}
    return rule, with_sizes(rule.input, {**sizes, **rule.sizes})


@functools.cache
def _openings() -> tuple[str, ...]:
    plain = Leaf("float", (3, 4))
    return tuple(name for name, rule in RULES.items() if not _reads(rule, plain))


def _one(random, x) -> Rule:
    """A rule that reads x, each as likely as any other."""
    fitting = _fitting(_key(x))
    if not fitting:
        raise SignatureError(f"no rule reads {x}")
    return _sized(random, RULES[random.choice(fitting)])


@functools.cache
def _fitting(key) -> tuple[str, ...]:
    return tuple(name for name, rule in RULES.items() if _reads(rule, key))


def _reads(rule: Elementary, x) -> bool:
    """Whether a rule reads an input of these leaves, whatever its free lengths; a restricted domain reads nothing."""
    domains = rule.input.domain if is_leaf(rule.input) else ()
    if any(hasattr(constraint, bound) for constraint in domains for bound in ("gt", "ge", "lt", "le")) or any(
        type(constraint).__name__ in ("OneOf", "Sorted") or constraint.__class__ is type for constraint in domains
    ):
        return False
    try:
        rule.bind(**dict.fromkeys(rule.signature.free_sizes, 4)).shapes(x)
    except SignatureError:
        return False
    return True


def _key(x):
    return Leaf(x.kind, x.shape) if is_leaf(x) else tuple(map(_key, x))


def _sized(random, rule: Elementary) -> Elementary:
    """A rule with its free lengths from the menu, and now and then a static option other than its default."""
    sizes = {name: _skewed(random, WIDTHS) for name in rule.signature.free_sizes}
    options = {k: random.choice(values) for k, values in rule.signature.options.items() if random.random() > COMMON}
    return rule.bind(**sizes, **options) if sizes or options else rule


def _layer(random, x, depth: int) -> Rule:
    """One step of a chain: a rule, or a combinator around smaller chains."""
    if depth == 0 or not is_leaf(x) or not x.shape or random.random() < 0.65:
        return _one(random, x)
    kind = random.choice(("residual", "fan_out", "concatenate", "parallel", "tied", "repeat", "scan", "checkpointed"))
    return _COMBINED[kind](random, x, depth - 1)


def _chain(random, x, depth) -> tuple[Rule, Leaf]:
    layers = []
    for _ in range(random.randint(1, 3)):
        layer = _layer(random, x, depth)
        out = layer.shapes(x)[1]
        if not is_leaf(out) or not out.shape:  # pairs and scalars stay out of branches
            break
        layers.append(layer)
        x = out
    layers = layers or [RULES["identity"]]
    return (layers[0] if len(layers) == 1 else serial(*layers)), x


def _to_width(random, x, width, depth) -> Rule:
    """A chain that ends with this width and the other axes as they came, by a dense layer where it has to."""
    rule, out = _chain(random, x, depth)
    if out.shape == (*x.shape[:-1], width):
        return rule
    dense = RULES["dense"].sized(width)
    return serial(rule, dense) if out.shape[:-1] == x.shape[:-1] else dense


def _keeping(random, x, depth) -> Rule:
    return _to_width(random, x, x.shape[-1], depth)


def _fan_out(random, x, depth):
    return fan_out(*(_keeping(random, x, depth) for _ in range(random.randint(2, 3))))


def _concatenate(random, x, depth):
    """Branches whose widths add up to one of the menu."""
    width = x.shape[-1] if x.shape[-1] > 1 else WIDTHS[0]
    first = max(1, width // 2)
    return concatenate(_to_width(random, x, first, depth), _to_width(random, x, width - first, depth))


def _parallel(random, x, depth):
    if x.shape[-1] % 2:
        return residual(_keeping(random, x, depth))
    half = Leaf("float", (*x.shape[:-1], x.shape[-1] // 2))
    halves = parallel(_keeping(random, half, depth), _keeping(random, half, depth))
    return serial(RULES["split"], halves, RULES[random.choice(("join", "add", "multiply"))])


def _tied(random, x, depth):
    dense = RULES["dense"].sized(x.shape[-1])
    return tied(*random.choice([(dense, dense), (dense, residual(dense)), (dense, dense, dense)]))


def _repeat(random, x, depth):
    inner = random.choice([serial(RULES["dense"].sized(x.shape[-1]), _elementwise(random, x)), _elementwise(random, x)])
    return repeat(inner, random.choice((2, 3)))


def _elementwise(random, x):
    rule = _one(random, x)
    return rule if rule.shapes(x)[1] == _key(x) else RULES["tanh"]


def _scan(random, x, depth):
    if len(x.shape) < 2:
        return residual(_keeping(random, x, depth))
    return scan(RULES["recurrent"].sized(_skewed(random, WIDTHS)))


_COMBINED = {
    "residual": lambda random, x, depth: residual(_keeping(random, x, depth)),
    "checkpointed": lambda random, x, depth: checkpointed(_keeping(random, x, depth)),
    "fan_out": _fan_out,
    "concatenate": _concatenate,
    "parallel": _parallel,
    "tied": _tied,
    "repeat": _repeat,
    "scan": _scan,
}


def any_input(rule: Rule) -> tuple:
    """The first shape of the menu that a rule reads."""
    names = Signature({"x": rule.input}, {}, {}, None).sizes
    menus = [BATCHES if name[0] == "*" else WIDTHS for name in names]
    for lengths in itertools.product(*menus):
        x = with_sizes(rule.input, dict(zip(names, lengths, strict=True)))
        try:
            rule.shapes(x)
        except SignatureError as error:
            reason = error
            continue
        return _shape(x)
    raise SignatureError(f"{reason}; no short shape fits {rule}, so say --input if there is one")


def _shape(tree):
    return tree.shape if is_leaf(tree) else tuple(_shape(part) for part in tree)


# --- which rules stood next to which ---------------------------------------------------------------------------------


def pairs(rule: Rule) -> set[tuple[str, str]]:
    """The ordered pairs of rules of which the second reads what the first gave."""
    found: set[tuple[str, str]] = set()
    _flow(rule, frozenset(), found)
    return found


def _flow(rule: Rule, before: frozenset, found: set) -> frozenset:
    """Add the pairs inside a rule that reads the outputs of `before`; the names of the rules that give its output."""
    if not isinstance(rule, Network):
        found.update((name, rule.name) for name in before)
        return frozenset({rule.name})
    name = rule.combinator.__name__
    if name in ("serial", "tied"):
        return functools.reduce(lambda before, layer: _flow(layer, before, found), rule.layers, before)
    after = frozenset().union(*(_flow(layer, before, found) for layer in rule.layers))
    if name == "residual":
        return after | before
    if name == "repeat":
        _flow(rule.layers[0], after, found)
    return after


@functools.cache
def possible_pairs() -> frozenset[tuple[str, str]]:
    """The ordered pairs of rules that fit together on some shape of the menu, alone or as two of a pair."""
    found = set()
    for name, rule in RULES.items():
        for output in map(_key, _outputs(rule)):
            inputs = [output, (output, output)] if is_leaf(output) else [output, output[0]]
            found.update((name, after) for x in inputs for after in _fitting(x))
    return frozenset(found)


def _outputs(rule: Elementary):
    """The outputs that a rule gives on the menu's shapes."""
    for batch, width in itertools.product(BATCHES, WIDTHS):
        bound = rule.bind(**dict.fromkeys(rule.signature.free_sizes, width))
        x = Leaf("float", (*batch, width))
        if not _reads(rule, x):
            x = with_sizes(rule.input, {name: batch if name[0] == "*" else width for name in rule.signature.sizes})
        with contextlib.suppress(SignatureError):
            yield bound.shapes(x)[1]


__all__ = ["DEPTH", "any_input", "architecture", "pairs", "possible_pairs"]
