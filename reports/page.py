"""The page: one record as one HTML file that needs no network, no server and, to be read, no scripts.

Everything a reader must see is HTML and inline SVG; scripts add sorting, the table of all findings with its query,
copy buttons and curves that can be read off.  The libraries for these stand in page/vendor with their licences and
are part of the file.
"""

import functools
import os
import pathlib
import re
from collections.abc import Sequence

import jinja2
import markupsafe

from . import derivations, sections, words
from . import targets as functions
from .columns import data_block
from .compare import Change
from .record import Record, RecordError

_FOLDER = pathlib.Path(__file__).with_name("page")


def render(record: Record, comparison: Sequence[Change] | None = None) -> str:
    """The page of a record, with what changed since a baseline where `comparison` is given."""
    record = sections.completed(record)
    data, packed = data_block(record)
    return (
        _environment()
        .get_template("page.html")
        .render(
            summary=sections.summary(record),
            comparison=sections.comparison(comparison),
            failures=sections.failures(record),
            targets=functions.targets(record),
            rules=sections.rules(record),
            architectures=sections.architectures(record),
            training=sections.training(record),
            derivations=derivations.derivations(record),
            lowering=sections.lowering(record),
            total=len(record.findings),
            data=markupsafe.Markup(data),
            packed=packed,
        )
    )


def write(record: Record, path: str | os.PathLike, comparison: Sequence[Change] | None = None) -> pathlib.Path:
    """Write the page of a record to a file and return its path."""
    path = pathlib.Path(path)
    # A lone surrogate, which UTF-8 cannot hold, is shown as a question mark.
    content = render(record, comparison).encode("utf-8", errors="replace")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RecordError(f"cannot write the page to {path}: {error.strerror}; choose another place") from None
    return path


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(words, name) for name in ("number", "count", "some", "exact", "duration", "slug")
    }
    environment.globals["asset"] = _asset
    return environment


@functools.cache
def _asset(name: str) -> markupsafe.Markup:
    """A script or a style sheet of the page's folder, made fit to stand inside its element."""
    text = (_FOLDER / name).read_text("utf-8")
    text = "\n".join(line for line in text.splitlines() if "sourceMappingURL=" not in line)
    return markupsafe.Markup(re.sub(r"<(?=/script|/style|!--)", r"<\\", text, flags=re.IGNORECASE))
