"""What a hidden command of the suite measures in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from suite.inputs import ROOT


def answer_of(what: str, *arguments: str, env: dict[str, str] | None = None) -> dict:
    """The last line that `python benchmarks ARGUMENTS` prints, as JSON. env: beside this process's.

    Raises:
        RuntimeError: it failed; names `what`.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks"), *arguments],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
