"""The command `manual-backprop`.  Nothing here imports jax before a subcommand needs it."""

import ast
import math
import os
import pathlib
import re
import shlex
import sys

import click

EXIT_WRONG = 1
LARGEST_INPUT = 2**20
INTERRUPTED = 130  # as shells say of a program that Ctrl-C ended
PLATFORMS = ("cpu", "gpu", "tpu")
DTYPES = ("float64", "float32", "bfloat16", "float16")
VALUES = ("normal", "tied", "zero", "large", "tiny", "mixed", "kinks", "wide")
PROFILES = ("quick", "default", "thorough")
# What bad input raises; each message says what came, what was expected and what to do.
BAD_INPUT = ("SignatureError", "ExpressionError", "RecordError", "Unusable")


class BadInput(click.ClickException):
    """One line on standard error, and exit 2."""

    exit_code = 2


class _Commands(click.Group):
    """What a command refuses becomes bad input, and Ctrl-C one line, whichever command it is."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except click.UsageError as error:
            said = " ".join(error.format_message().split()).rstrip(".")
            raise BadInput(f"{said}; see {error.ctx.command_path} --help") from None
        except Exception as error:
            if type(error).__name__ in BAD_INPUT:
                raise BadInput(str(error)) from None
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="manual-backprop")
def main():
    """Gradient correctness for JAX: hand-written derivatives, held against independent oracles."""


@main.command()
@click.option(
    "--output", default="report", show_default=True, type=click.Path(file_okay=False), help="Folder to write."
)
@click.option("--architectures", default=200, show_default=True, type=click.IntRange(min=0), help="Random networks.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides every random choice.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only these; repeatable.")
@click.option("--platform", default=None, type=click.Choice(PLATFORMS), help="The device; JAX's default otherwise.")
@click.option("--processes", type=click.IntRange(min=1), help="On a CPU; one for every core by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def run(output, architectures, seed, dtypes, platform, processes, quiet):
    """Check every rule and random architectures, train by hand, and write the record and the page."""
    folder = _writable(output)
    _use(platform)
    from manual_backprop.reports import page, record

    from . import run as job
    from .environment import header
    from .spread import cores, on_a_cpu

    if processes and not on_a_cpu():
        raise BadInput(f"--processes {processes} is for a CPU; an accelerator belongs to one process: leave it out")
    plan = job.Plan(seed, architectures, dtypes or DTYPES, processes or (cores() if on_a_cpu() else 1))
    interrupted = False
    try:
        with record.Recorder(folder / "record.jsonl", header(_command_line(), plan.choices())) as recorder:
            for step in _shown(job.work(plan), quiet):
                for line in step.lines:
                    recorder.add(line)
    except KeyboardInterrupt:
        interrupted = True
    # What was interrupted stands beside an older record and its page, and replaces neither.
    path = recorder.path
    shown = folder / "index.html" if path.name == "record.jsonl" else path.with_suffix(".html")
    loaded = record.load(path)
    page.write(loaded, shown)
    _summary(loaded, shown, path)
    sys.exit(INTERRUPTED if interrupted else EXIT_WRONG if loaded.failures or loaded.broken_claims else 0)


@main.command()
@click.argument("names", nargs=-1, metavar="[RULE | PACKAGE.MODULE:FUNCTION]...")
@click.option("--expression", help="A network, e.g. 'serial(dense(5), relu, dense(3))'.")
@click.option("--input", "shape", help="The input's shape, e.g. '(3, 4)'; several for a pair: '((3, 4), (3, 4))'.")
@click.option("--values", multiple=True, type=click.Choice(VALUES), help="Kinds of values; all by default.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only these; repeatable.")
@click.option("--args", help="Of a function: its arguments, e.g. 'f32[4,8] i32[4]<10'; by its annotations if left out.")
@click.option("--truth", help="Of a function: PACKAGE.MODULE:FUNCTION, plain, where its primal has no derivative.")
@click.option("--argnums", help="Of a function: the arguments to differentiate, e.g. 0,1; all floats by default.")
@click.option("--checks", help="Of a function: only these, e.g. truth,vmap; see `explain checks`.")
@click.option("--profile", type=click.Choice(PROFILES), help="Of a function: how much is tried.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of a function: for one check at most.")
@click.option("--output", type=click.Path(file_okay=False), help="Of functions: folder for the record and the page.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides every random choice; 0 by default.")
@click.option("--platform", default=None, type=click.Choice(PLATFORMS), help="The device; JAX's default otherwise.")
@click.option("--verbose", "-v", is_flag=True, help="Every finding, not only what is wrong.")
def check(names, expression, shape, values, seed, dtypes, platform, verbose, output, **of_functions):
    """Check rules by name, one network by its expression, or functions of your own as PACKAGE.MODULE:FUNCTION.

    With none of these, every function that [tool.manual-backprop] in ./pyproject.toml lists.

    Exit 1 where a derivative is wrong; else 2 where something could not be checked at all; else 0.
    """
    of_functions["seed"], functions = seed, [name for name in names if ":" in name]
    if functions or not (names or expression):
        if len(functions) < len(names) or expression or shape or values or dtypes:
            raise BadInput(
                "functions are checked by themselves: without rules, --expression, --input, --values, --dtype"
            )
        _check_functions(functions, of_functions, output, platform, verbose)
    if dotted := next((name for name in names if re.fullmatch(r"\w+(\.\w+)+", name)), None):
        raise BadInput(
            f"{dotted!r} is no rule; a function is {':'.join(dotted.rsplit('.', 1))}, with a colon before it"
        )
    if bool(names) == bool(expression):
        raise BadInput("name rules or functions, or give one --expression")
    if shape and not expression:
        raise BadInput("--input belongs to an --expression")
    for option, value in {"output": output, **of_functions, "seed": None}.items():
        if value is not None:
            raise BadInput(f"--{option} belongs to functions, named as package.module:function")
    lengths = _shape(shape)
    _use(platform)
    _affordable(expression, lengths)
    from . import check as checking

    findings = checking.check(names, expression, lengths, values or VALUES, seed or 0, dtypes or DTYPES)
    wrong = [finding for finding in findings if not finding.ok]
    for finding in findings if verbose else wrong:
        click.echo(str(finding))
    click.echo(checking.sentence(findings))
    sys.exit(EXIT_WRONG if wrong else 0)


def _check_functions(names, options, output, platform, verbose):
    _use(platform)
    from manual_backprop.reference.patience import leave

    from . import check_targets

    chosen = check_targets.asked(names, options)
    if not chosen:
        raise BadInput(
            "name rules, or functions as package.module:function, or give one --expression, "
            "or list functions in [tool.manual-backprop] of pyproject.toml"
        )
    code = check_targets.run(chosen, _writable(output) if output is not None else None, _command_line(), verbose)
    leave(code)
    sys.exit(code)


@main.command()
@click.argument("baseline", type=click.Path(dir_okay=False))
@click.argument("current", type=click.Path(dir_okay=False))
@click.option("--page", "page_path", type=click.Path(dir_okay=False), help="Write a page of CURRENT with the changes.")
def compare(baseline, current, page_path):
    """Hold two records against each other: exit 1 where a gradient got worse or is no longer checked."""
    from manual_backprop.reports import compare as comparison
    from manual_backprop.reports import page, record

    before, after = record.load(baseline), record.load(current)
    changes = comparison.compare(before, after)
    for change in changes:
        click.echo(change.sentence)
    failures = comparison.failures(changes)
    if page_path:
        page.write(after, page_path, changes)
    click.echo(f"{len(changes)} changes, {len(failures)} of them for the worse")
    sys.exit(EXIT_WRONG if failures else 0)


@main.command()
@click.argument("record", type=click.Path(dir_okay=False))
@click.option("--output", default="index.html", show_default=True, type=click.Path(dir_okay=False))
def render(record, output):
    """Write the page of a record again."""
    from manual_backprop.reports import page
    from manual_backprop.reports import record as records

    page.write(records.load(record), output)
    click.echo(output)


@main.command()
def rules():
    """List the rules with the first line of their derivation."""
    from manual_backprop.rules import RULES

    for name, rule in RULES.items():
        click.echo(f"{name:44} {(rule.__doc__ or '').strip().splitlines()[0]}")


@main.command()
@click.argument("name")
@click.option("--input", "shape", help="The input's shape for a network, e.g. 4 or '(2, 4)'.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def explain(name, shape, seed):
    """Explain a rule, a claim (A1 to D12) or a network's expression, with an example that is checked on the spot.

    `checks` lists what a function is checked for, and the name of one of them, such as truth, tells of it.
    """
    from rich.console import Console

    from . import explain as explaining

    lengths = _shape(shape)
    _affordable(name if "(" in name else None, lengths)
    parts, fine = explaining.explain(name, lengths, seed)
    console = Console(highlight=False)
    for part in parts:
        console.print(part)
    sys.exit(0 if fine else EXIT_WRONG)


def _shape(text):
    if text is None:
        return None
    try:
        shape = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        shape = None
    shape = (shape,) if isinstance(shape, int) else shape
    lengths = [n for part in shape for n in (part if isinstance(part, tuple) else (part,))] if shape else []
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in lengths):
        raise BadInput(f"--input is {text[:60]!r}; a shape such as '(3, 4)' was expected")
    if math.prod(max(n, 1) for n in lengths) > LARGEST_INPUT:
        raise BadInput(f"--input is {text[:60]!r}; at most {LARGEST_INPUT} elements are checked")
    return shape


def _affordable(expression, shape):
    if expression:
        from manual_backprop.architecture import build

        from . import limits

        limits.affordable(build(expression), shape)


def _writable(output) -> pathlib.Path:
    if not output.strip():
        raise BadInput(f"--output is {output!r}; name a folder")
    folder = pathlib.Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "no permission to write there")
    except OSError as error:
        raise BadInput(f"--output {output}: {error.strerror}; choose another folder") from None
    return folder


def _use(platform):
    """Run on a platform; every thread follows the configuration, where a context would hold for one alone."""
    import jax

    if platform is None:
        return
    try:
        jax.config.update("jax_default_device", jax.devices(platform)[0])
    except RuntimeError:
        here = ", ".join(name for name in PLATFORMS if _has(name))
        raise BadInput(f"--platform {platform} is not available; here there is {here}") from None


def _has(platform):
    import jax

    try:
        return bool(jax.devices(platform))
    except RuntimeError:
        return False


def _shown(steps, quiet):
    """The steps, with a progress bar beside them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        tasks: dict = {}
        for step in steps:
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(step.stage, total=step.total)
            progress.update(tasks[step.stage], completed=step.done)
            yield step


def _summary(record, page, path):
    findings = record.findings
    counts = {verdict: sum(f["verdict"] == verdict for f in findings) for verdict in ("right", "wrong", "raised")}
    subjects = len({f["subject"] for f in findings if f["family"] == "rule"})
    networks = len({f["subject"] for f in findings if f["family"] == "architecture"})
    for failure in record.failures[:10]:
        click.echo(f"{failure['verdict']}: {failure['subject']} {failure.get('leaf', '')} {failure.get('dtype', '')}")
        click.echo(f"    {failure.get('diagnosis') or failure.get('message') or ''}")
        click.echo(f"    {failure.get('reproduction') or ''}")
    for claim in record.broken_claims:
        click.echo(f"{claim['verdict']}: claim {claim['number']}, {claim['title']}: {claim.get('message') or ''}")
    for curve in record.curves:
        click.echo(
            f"{curve['subject']}: {curve['accuracy_by_hand']:.1%} of the held-out right; by hand and by jax.grad at "
            f"most {curve['largest_divergence_ulps']:.3g} ulps apart"
        )
    claims = sum(line["kind"] == "claim" for line in record.others)
    if claims:
        click.echo(f"{claims - len(record.broken_claims)} of {claims} derivations as predicted")
    state = "" if record.finished else "interrupted: "
    click.echo(
        f"{state}{subjects} rules and {networks} architectures: {counts['right']} findings right, "
        f"{counts['wrong']} wrong, {counts['raised']} raised"
    )
    click.echo(f"record  {path}\npage    {page}")


def _command_line():
    return "manual-backprop " + shlex.join(sys.argv[1:])
