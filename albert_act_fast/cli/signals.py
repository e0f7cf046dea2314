"""Signals that end a command: at once while it loads, after tidying up once it works."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


class Stopped(BaseException):
    """A signal came while the command was at work. (No KeyboardInterrupt, which typer takes for
    Ctrl-C whatever it was.)

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


_tidy: list[Callable[[], None]] = []
_raises = False
_came = False


def install() -> None:
    """From now on a signal ends the process with status 128 + its number and without a traceback.

    Raising KeyboardInterrupt would not do while libraries are imported: some swallow it, others
    break half-way. What is ignored (by `nohup`) stays so.
    """
    global _raises, _came
    _raises = _came = False
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


def _handle(number: int, frame) -> None:
    global _came
    if _raises and not _came:
        _came = True
        raise Stopped(number)
    for tidy in _tidy:
        tidy()
    if sys.stderr is not None and sys.stderr.isatty():
        # The cursor, which a progress bar may have hidden.
        os.write(2, b"\x1b[?25h\n")
    os._exit(128 + number)


@contextmanager
def at_work() -> Iterator[None]:
    """Within the block the first signal raises Stopped, so that `finally` and `except` run; the
    second ends the process at once."""
    global _raises
    before, _raises = _raises, True
    try:
        yield
    finally:
        _raises = before


@contextmanager
def tidied(tidy: Callable[[], None]) -> Iterator[None]:
    """Calls `tidy` where a signal ends the process at once within the block."""
    _tidy.append(tidy)
    try:
        yield
    finally:
        _tidy.remove(tidy)
