"""A process that computes. It ends when the socket to its parent closes, however that happens."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection


def main(number: int) -> None:
    """
    Args:
        number: of the file descriptor of a socket. The first message is a SharedEncoder's pickled
            part, its path, and the cores that are this worker's; the answer is None, or in words
            why there will be none. Then come (task, texts), and each is answered with (parts,
            None) or (None, the error's type).
    """
    # They are for the parent, which lets its workers finish; a terminal sends them to all.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection = Connection(number)
    pickled, path, cores = connection.recv()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    from albert_act_fast.serve import shared
    from albert_act_fast.serve.engine import warm_up, works_of

    try:
        encoder = shared.load(pickled, path)
        works = works_of(encoder)
        warm_up(encoder, works)
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send(None)
    while True:
        try:
            task, texts = connection.recv()
        except EOFError:
            return
        try:
            answer = works[task].computed(texts), None
        except Exception as error:
            # Without its message, which may quote a text.
            answer = None, type(error).__name__
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
