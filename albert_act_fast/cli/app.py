"""The commands and how they end. What a command needs is imported when it runs, not for `--help`.

Exit status: 0; 1 for what failed at work, a reader of the output that went away included; 2 for
what the caller can put right in the call; 128 + n after signal n.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from albert_act_fast.cli import (
    classify,
    convert,
    depth,
    encode,
    evaluate,
    info,
    report,
    search,
    serve,
)
from albert_act_fast.cli.errors import (
    FAILURE,
    CommandError,
    is_out_of_memory,
    one_line,
    out_of_memory,
)
from albert_act_fast.cli.signals import Stopped

NAME = "albert-act-fast"
# typer may bring click along or carry its own copy, so its exceptions are reached through the one
# of them that it exports in both cases.
_ClickException = typer.BadParameter.__mro__[2]


class _OneLineErrors(TyperGroup):
    """Every error the caller can do something about is one line on stderr, without a frame."""

    def main(self, *args, standalone_mode: bool = True, **kwargs):
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            status = super().main(*args, standalone_mode=False, **kwargs) or 0
            if sys.stdout is not None:
                sys.stdout.flush()
        except CommandError as error:
            status = _report(error, error.status)
        except _ClickException as error:
            status = _report(error.format_message(), error.exit_code)
        except Stopped as stopped:
            status = 128 + stopped.number
        except (typer.Abort, KeyboardInterrupt):
            status = 130
        except BrokenPipeError:
            # The reader (`| head`) has what it wanted.
            status = FAILURE
        except OSError as error:
            # Files have errors of their own by here; what is left is what was printed.
            if not is_out_of_memory(error) and error.filename is not None:
                raise
            status = _report(_of_system(error), FAILURE)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            status = _report(out_of_memory(), FAILURE)
        _drop_what_is_unwritten()
        sys.exit(status)


def _of_system(error: OSError) -> object:
    if is_out_of_memory(error):
        return out_of_memory()
    return f"standard output: cannot be written: {error.strerror or error}"


def _drop_what_is_unwritten() -> None:
    """What could not be written may not be tried again, with a traceback, when Python exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _report(message: object, status: int) -> int:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"{NAME}: error: {one_line(message)}", file=sys.stderr)
    return status


app = typer.Typer(
    name=NAME,
    cls=_OneLineErrors,
    help="Depths, embeddings and classes of texts by ALBERT-ACT, computing running tokens only.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    # Help without rich: it comes sooner, and brackets in it stay as they are.
    rich_markup_mode=None,
)
app.command("depth")(depth.depth)
app.command("encode")(encode.encode)
app.command("classify")(classify.classify)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("convert")(convert.convert)
app.command("report")(report.report)
app.command("eval")(evaluate.evaluate)
app.command("info")(info.info)


def _show_version(wanted: bool) -> None:
    if wanted:
        from albert_act_fast.version import __version__

        print(f"{NAME} {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        *names, last = [one.name for one in app.registered_commands]
        raise CommandError(f"COMMAND: got none, expected {', '.join(names)} or {last} (see --help)")


def run() -> None:
    """The command with the arguments of this process."""
    app(prog_name=NAME)
