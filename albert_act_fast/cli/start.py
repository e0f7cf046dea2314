"""The console script. Nothing heavy is imported before signals and streams are seen to."""

from __future__ import annotations

import os


def main() -> None:
    """`albert-act-fast`."""
    from albert_act_fast.cli import signals

    signals.install()
    _hold_standard_streams()
    from albert_act_fast.cli.app import run

    run()


def _hold_standard_streams() -> None:
    """A standard stream that the caller closed leaves a number that the next file would get, and
    with it what libraries print; something harmless takes it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Reading from the write-only and writing to the read-only one fail, as on a closed one.
            os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
