"""Entry point. What a command needs is imported when it runs, not for `--help`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from albert_act_fast.cli import depth, encode, evaluate, info
from albert_act_fast.cli.errors import CommandError, one_line
from albert_act_fast.version import __version__

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
            sys.stdout.flush()
        except CommandError as error:
            status = _report(error, error.status)
        except _ClickException as error:
            status = _report(error.format_message(), error.exit_code)
        except (typer.Abort, KeyboardInterrupt):
            status = 130
        except BrokenPipeError:
            # The reader (`| head`) has what it wanted; nothing may be flushed to it on exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status)


def _report(message: object, status: int) -> int:
    print(f"{NAME}: error: {one_line(message)}", file=sys.stderr)
    return status


app = typer.Typer(
    name=NAME,
    cls=_OneLineErrors,
    help="Depths and embeddings of texts by ALBERT-ACT, computing running tokens only.",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
app.command("depth")(depth.depth)
app.command("encode")(encode.encode)
app.command("eval")(evaluate.evaluate)
app.command("info")(info.info)


def _show_version(wanted: bool) -> None:
    if wanted:
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
        raise CommandError("COMMAND: got none, expected depth, encode, eval or info (see --help)")


def main() -> None:
    """The console script."""
    # A terminated run cleans up like an interrupted one: no half-written file stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    app(prog_name=NAME)
