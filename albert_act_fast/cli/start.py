"""The console script. Nothing heavy is imported before signals and streams are seen to."""

from __future__ import annotations

import os

# What PyTorch and oneDNN prepare for each shape of a product they keep, for 1024 shapes unless told
# otherwise before PyTorch is loaded. A bfloat16 call takes about 1 MiB, and halting gives ever new
# shapes.
_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
_CACHED_SHAPES = "64"


def main() -> None:
    """`albert-act-fast`."""
    from albert_act_fast.cli import signals

    signals.install()
    for name in _CACHES:
        os.environ.setdefault(name, _CACHED_SHAPES)
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
