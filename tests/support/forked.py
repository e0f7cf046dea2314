"""Processes forked from one that has imported PyTorch and transformers and has done nothing else.

A new interpreter spends seconds of CPU time on these before it does anything. Tests that are not
about how a process comes up fork one instead. The package itself is imported there anew; standard
streams are file descriptors, signals end the process and its exit status says how, as of any. But
what libraries read from the environment while they are imported was read before, and they compute
with one thread.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO
from unittest import mock

# None that starts a thread (pyarrow does): what a thread holds when its process forks is held for
# ever in the new one.
_LIBRARIES = [
    "pydantic",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "sentencepiece",
    "torch._dynamo",
    "transformers.models.albert.modeling_albert",
    "transformers.models.albert.tokenization_albert",
    "transformers.models.auto.tokenization_auto",
    "typer.main",
]
_HANGS = 600  # seconds
_context = multiprocessing.get_context("forkserver")


@cache
def _start_server() -> None:
    _context.set_forkserver_preload(_LIBRARIES)
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def command(*arguments: object) -> str:
    """The code of `albert-act-fast` with these arguments."""
    return (
        "import sys\n"
        f"sys.argv = {['albert-act-fast', *map(str, arguments)]!r}\n"
        "from albert_act_fast.cli.start import main\n"
        "main()\n"
    )


def run(
    code: str,
    *,
    cwd: Path | None = None,
    stdout: IO | None = None,
    closed: int | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs Python code as `python -c` does, with nothing to read from standard input.

    Args:
        stdout: where it writes; None captures it.
        closed: the number of a standard stream that is closed before the code runs.
        variables: of the environment, beside those there are.
    """
    _start_server()
    with ExitStack() as files:
        stdin = files.enter_context(open(os.devnull, "rb"))
        captured, stderr = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        # A connection is what travels to another process with its descriptor.
        streams = [
            files.enter_context(Connection(os.dup(file.fileno())))
            for file in (stdin, stdout or captured, stderr)
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
        process = _context.Process(
            target=_become, args=(code, str(cwd or os.getcwd()), environment, streams, closed)
        )
        process.start()
        process.join()
        texts = []
        for file in (captured, stderr):
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess(code, process.exitcode, *texts)


def _become(
    code: str,
    folder: str,
    environment: dict[str, str],
    streams: list[Connection],
    closed: int | None,
) -> None:
    # What cannot be imported is passed over in silence.
    missing = [name for name in _LIBRARIES if name not in sys.modules]
    if missing:
        raise RuntimeError(f"not imported before the process was forked: {', '.join(missing)}")
    tasks = Path(f"/proc/{os.getppid()}/task")
    if tasks.exists() and len(list(tasks.iterdir())) > 1:
        raise RuntimeError("a library had started a thread before the process was forked")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        errors = "backslashreplace" if name == "stderr" else "strict"
        mode = "r" if name == "stdin" else "w"
        if number == closed:
            os.close(number)
            setattr(sys, name, None)
        else:
            setattr(sys, name, os.fdopen(number, mode, encoding=encoding, errors=errors))
    sys.argv = ["-c"]
    # One that hangs shows where before the test that waits for it is ended.
    faulthandler.dump_traceback_later(_HANGS, exit=True, file=2)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
