r"""Formulas in a line of text, typeset as MathML, which browsers draw without any script.

    names       one letter is a variable, several are upright: diag, softmax; `dW` is d times W
    scripts     a^L, w_{ij}, f', and both at once; below and above Σ and min
    fractions   a/b between two terms; ∂ belongs to the term after it, so ∂C/∂a^L is one fraction
    groups      {…} holds together and is not seen; (…) and […] are seen
    spaces      two or more are a wide space

Whatever it cannot read is shown as text: every character of the input is on the page, and none of it is markup.
"""

import re
import xml.sax.saxutils

WORDS = {"where", "for", "and", "or", "against", "kept", "numbers", "with", "without", "products", "but"}
LARGE = {"Σ": "∑", "min": "min", "max": "max"}
OPERATORS = {"-": "−", "*": "∗"}
CLOSING = {"(": ")", "[": "]", "{": "}"}
DEEPEST = 40  # groups inside groups; beyond, a formula is not one

_TOKEN = re.compile(r" {2,}|\s|[A-Za-z]+|\d+(?:\.\d+)?|···|.", re.DOTALL)


def mathml(formula: str) -> str:
    """The formula as a `math` element, display style.

    >>> mathml("a^L")
    '<math display="block"><msup><mi>a</mi><mi>L</mi></msup></math>'
    >>> mathml("∂C/∂z")
    '<math display="block"><mfrac><mrow><mo>∂</mo><mi>C</mi></mrow><mrow><mo>∂</mo><mi>z</mi></mrow></mfrac></math>'
    """
    tokens = _TOKEN.findall(formula)
    if max(_depths(tokens), default=0) > DEEPEST:
        return f'<math display="block">{_text(formula)}</math>'
    return f'<math display="block">{"".join(_Reader(tokens).sequence(None))}</math>'


def _depths(tokens):
    depth = 0
    for token in tokens:
        depth += token in "([{∂^_"  # each of these calls for another term before its own is whole
        depth -= token in ")]}" or token.isspace()
        yield depth


class _Reader:
    def __init__(self, tokens):
        self.tokens, self.at, self.inside = tokens, 0, 0  # inside how many scripts

    def sequence(self, closing) -> list[str]:
        parts = []
        while (token := self._peek()) is not None and token != closing:
            if token.isspace():
                self.at += 1
                parts += ['<mspace width="1.2em"/>'] if len(token) > 1 else []
            else:
                parts.append(self._fraction())
        self.at += closing is not None  # a group that never ends is ended here
        return parts

    def _fraction(self):
        term = self._term()
        while self._peek() == "/":
            self.at += 1
            term = f"<mfrac>{_bare(term)}{_bare(self._term())}</mfrac>"
        return term

    def _term(self):
        token = self._peek()
        if token is None:
            return "<mrow></mrow>"
        if token == "∂":
            self.at += 1
            after = self._peek()
            return f"<mrow><mo>∂</mo>{'' if after is None or after.isspace() else self._term()}</mrow>"
        return self._scripts(self._primary(), token in LARGE)

    def _scripts(self, base, large):
        below, above = [], []
        while (token := self._peek()) in ("^", "_", "'"):
            self.at += 1
            if token == "'":
                above.append("<mo>′</mo>")
            else:
                (above if token == "^" else below).append(self._script(token))
        names = ("munder", "mover", "munderover") if large else ("msub", "msup", "msubsup")
        parts = [f"<mrow>{''.join(part)}</mrow>" if len(part) > 1 else "".join(part) for part in (below, above) if part]
        if not parts:
            return base
        name = names[2] if below and above else names[0] if below else names[1]
        return f"<{name}>{base}{''.join(parts)}</{name}>"

    def _script(self, token):
        if token == "^" and self._peek() == "T":
            self.at += 1
            return '<mi mathvariant="normal">T</mi>'
        self.inside += 1
        script = self._primary() if self._peek() is not None else "<mrow></mrow>"
        self.inside -= 1
        return script

    def _primary(self):
        token = self.tokens[self.at]
        self.at += 1
        if token in CLOSING:
            inner = "".join(self.sequence(CLOSING[token]))
            if token == "{":
                return f"<mrow>{inner}</mrow>"
            return f"<mrow><mo>{token}</mo>{inner}<mo>{CLOSING[token]}</mo></mrow>"
        if token in LARGE:
            return f"<mo>{LARGE[token]}</mo>"
        if token in WORDS:
            return f"<mtext>&#160;{token}&#160;</mtext>"
        if re.fullmatch("d[A-Za-z]", token):
            return f"<mrow><mi>d</mi><mi>{token[1]}</mi></mrow>"
        if token.isalpha() and len(token) == 2 and token.islower() and self.inside:
            return "".join(f"<mi>{letter}</mi>" for letter in token)  # two indices: w_{ij}
        if token.isalpha():
            return f"<mi>{_escaped(token)}</mi>"
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if len(token) == 1 and token.isprintable():
            return f"<mo>{_escaped(OPERATORS.get(token, token))}</mo>"
        return _text(token)

    def _peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None


def _bare(term):
    """A term above or below the line of a fraction, which does what brackets would."""
    match = re.fullmatch(r"<mrow><mo>\(</mo>(.*)<mo>\)</mo></mrow>", term)
    return f"<mrow>{match[1]}</mrow>" if match else term


def _text(text):
    return f"<mtext>{_escaped(text)}</mtext>"


def _escaped(text):
    return xml.sax.saxutils.escape(text.encode("utf-8", "replace").decode("utf-8"))


__all__ = ["mathml"]
