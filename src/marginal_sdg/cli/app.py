"""The program: its commands, its exit codes, and one line for everything that goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import marginal_sdg
from marginal_sdg.cli.audit import audit
from marginal_sdg.cli.data import data
from marginal_sdg.cli.describe import describe
from marginal_sdg.cli.evaluate import evaluate
from marginal_sdg.cli.plan import plan
from marginal_sdg.cli.sample import sample
from marginal_sdg.cli.synthesize import synthesize
from marginal_sdg.errors import MarginalSDGError, ProtocolError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(marginal_sdg.__version__, prog_name="marginal-sdg")
def app() -> None:
    """Differentially private synthetic data from your own table.

    Exit codes: 0 done, 1 failed, 2 bad input (one line says what), 130 interrupted (no file is left half written).
    """


for _command in (describe, plan, synthesize, sample, evaluate, audit, data):
    app.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``$MARGINAL_SDG_DEBUG`` shows where an error came from."""
    try:
        code = app.main(None if argv is None else list(argv), prog_name="marginal-sdg", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("MARGINAL_SDG_DEBUG"):
            raise
        text, code = _diagnosis(error)
        click.echo(text, err=True)
        return code


def run() -> NoReturn:
    """The installed program."""
    sys.exit(main())


def _diagnosis(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted: no file was left half written", INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message(), BAD_INPUT
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        hint = f"; see {where.command_path} --help" if where else ""
        return f"error: {error.format_message().rstrip('.')}{hint}", BAD_INPUT
    if isinstance(error, MarginalSDGError):
        return f"error: {' '.join(str(error).split())}", FAILED if isinstance(error, ProtocolError) else BAD_INPUT
    if isinstance(error, OSError):
        return f"error: {error.filename or 'output'}: {error.strerror or error}", FAILED
    if isinstance(error, MemoryError):
        return "error: not enough memory; use coarser bins, fewer columns or a smaller --max-model-mb", FAILED
    kind = type(error).__name__
    return f"error: {kind}, which is a bug; MARGINAL_SDG_DEBUG=1 shows where (and may show data)", FAILED
