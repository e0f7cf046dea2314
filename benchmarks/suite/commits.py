"""The same suite over the package of another commit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from suite.inputs import ROOT


def install(commit: str, folder: Path) -> Path:
    """The package of that commit, built into a folder of its own, which is returned.

    Raises:
        ValueError: there is no such commit.
        RuntimeError: it does not build.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode != 0:
        raise ValueError(f"commit: got {commit!r}: {archive.stderr.decode().strip()}")
    source, target = folder / "source", folder / "site"
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(source, filter="data")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "--target", target, source], capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"{commit} does not build: {built.stderr[-2000:]}")
    return target


class Baton:
    """Lets two processes run by turns: one at a time, from one call of `pass_on` to the next.

    A machine is slower for minutes at a time, and not in everything alike; rounds of two commits
    that follow each other see the same of it.

    Args:
        take: file descriptor to read from when waiting.
        give: file descriptor to write to when the other may go on.
        first: whether this process is the one to start.
    """

    def __init__(self, take: int, give: int, *, first: bool):
        self.take, self.give = take, give
        if not first:
            os.read(take, 1)

    def pass_on(self) -> None:
        """Returns when it is this process's turn again, or the other one has ended."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.give, b".")
        os.read(self.take, 1)


def run_by_turns(sites: list[Path], arguments: list[list[str]]) -> list[int]:
    """Runs this suite's command `run` twice, each time with the package found in a site, the two
    taking turns round by round; their exit statuses."""
    pipes = [os.pipe(), os.pipe()]
    processes = []
    for i, (site, own) in enumerate(zip(sites, arguments, strict=True)):
        take, give = pipes[i][0], pipes[1 - i][1]
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, str(ROOT / "benchmarks"), "run", *own]
        command += ["--turns", f"{take},{give},{'first' if i == 0 else 'second'}"]
        processes.append(
            subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, pass_fds=(take, give))
        )
    # Each end is then open in one process alone, so that the other sees it end.
    for end in (end for pipe in pipes for end in pipe):
        os.close(end)
    return [process.wait() for process in processes]
