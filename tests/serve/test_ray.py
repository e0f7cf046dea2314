"""The example on a local Ray, and what is refused before Ray is asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from albert_act_fast import ray as ours
from albert_act_fast.serve import ServeSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_cluster.py"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")


@pytest.mark.slow
@needs_ray
def test_the_example_runs():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Not pytest's folder: the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        own = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), "--cpus", "3", "--port", port],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, **own},
        )
    assert done.returncode == 0, done.stderr[-5000:]
    data, serve = [line.split() for line in done.stdout.splitlines() if "off by" in line]
    assert (data[:3], serve[:3]) == (["data", "rows", "60"], ["serve", "rows", "3"])
    assert max(float(data[-1]), float(serve[-1])) < 2e-6


def test_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (ours.deployment, lambda: ours.encode_dataset(None)):
        with pytest.raises(ImportError, match=r"pip install 'albert_act_fast\[ray\]'"):
            call()


@pytest.mark.slow
@needs_ray
def test_arguments_of_deployment():
    with pytest.raises(ValueError, match="workers: got 2, expected 0"):
        ours.deployment("sentence", ServeSettings(workers=2))
    with pytest.raises(TypeError, match="model: got int"):
        ours.deployment(3)
