"""The command, its workers, and signals. A worker that is stopped (SIGSTOP) computes as long as the
test likes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from support.serve_process import ServeProcess

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(scope="module")
def checkpoint(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    encoder._frozen.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_life(checkpoint, encoder, pool):
    """Requests, curl, a worker killed while it computes, and SIGTERM while another one does."""
    with ServeProcess(checkpoint) as server:
        rows = server.client.post("/embed", json={"inputs": ["so it was", "quiet"]}).json()
        expected = encoder.encode(["so it was", "quiet"], normalize=True)
        np.testing.assert_allclose(rows, expected, atol=2e-6)
        if shutil.which("curl"):
            done = subprocess.run(
                [
                    *("curl", "-s", "--noproxy", "*", f"{server.url}/embed"),
                    *("-H", "Content-Type: application/json", "-d", '{"inputs": "so it was"}'),
                ],
                capture_output=True,
                check=True,
            )
            np.testing.assert_allclose(json.loads(done.stdout), expected[:1], atol=2e-6)

        # Killed over two requests of one batch, and one that waits: all are answered.
        worker = server.wait_for("worker started")["pid"]
        _check_mapped(worker)
        tokenized = server.tokenized()
        os.kill(worker, signal.SIGSTOP)
        first = pool.submit(
            httpx.post, f"{server.url}/embed", json={"inputs": "so it was"}, timeout=None
        )
        server.wait_until_computing(tokenized + 1)
        second = pool.submit(
            httpx.post, f"{server.url}/embed", json={"inputs": "quiet"}, timeout=None
        )
        server.wait_for_metric("te_queue_size", 1)
        os.kill(worker, signal.SIGKILL)
        np.testing.assert_allclose(first.result().json(), expected[:1], atol=2e-6)
        np.testing.assert_allclose(second.result().json(), expected[1:], atol=2e-6)
        assert server.metric("albert_act_fast_worker_deaths_total") == 1
        worker = server.wait_for("worker started", 2)["pid"]

        # Terminated: what was accepted is answered, what comes then is not accepted.
        tokenized = server.tokenized()
        os.kill(worker, signal.SIGSTOP)
        last = pool.submit(
            httpx.post, f"{server.url}/embed", json={"inputs": "so it was"}, timeout=None
        )
        server.wait_until_computing(tokenized + 1)
        server.client.close()
        # All of its group, as a terminal or systemd does.
        os.killpg(server.process.pid, signal.SIGTERM)
        _wait_until_refused(server.url)
        assert not last.done()
        os.kill(worker, signal.SIGCONT)
        np.testing.assert_allclose(last.result().json(), expected[:1], atol=2e-6)
        assert server.wait() == 0
        assert server.events("stopped")
        assert not server.events("not JSON")
        assert [line["status"] for line in server.events("request")] == [200] * len(
            server.events("request")
        )
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_workers_end_when_the_server_is_killed(checkpoint):
    with ServeProcess(checkpoint, "--workers", "2") as server:
        workers = [server.wait_for("worker started", n)["pid"] for n in (1, 2)]
        server.process.kill()
        server.process.wait()
        for worker in workers:
            while _runs(worker):
                pass


@pytest.mark.slow
def test_workers_have_their_share_of_the_cores(checkpoint):
    cores = sorted(os.sched_getaffinity(0))
    with ServeProcess(checkpoint, "--workers", "2") as server:
        shares = [server.wait_for("worker started", n)["cores"] for n in (1, 2)]
        if len(cores) >= 2:
            assert sorted(core for share in shares for core in share) == cores
        for n in (1, 2):
            line = server.wait_for("worker started", n)
            assert os.sched_getaffinity(line["pid"]) == set(line["cores"] or cores)


@pytest.mark.slow
def test_a_port_that_is_taken(checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        server = ServeProcess(checkpoint, "--port", port, "--workers", "0")
        assert server.wait() == 1
        server.process.stderr.close()
        assert any("address already in use" in line["event"] for line in server.lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/nowhere"], "--model: got '/nowhere', which does not exist"),
        (["--timeout", "0"], "--timeout: got 0.0, expected a number of seconds above 0."),
        (["--workers", "-1"], "'--workers': Input should be greater"),
    ],
)
def test_mistakes_in_the_call_are_one_line(arguments, message):
    from typer.testing import CliRunner

    from albert_act_fast.cli.app import app

    result = CliRunner().invoke(app, ["serve", *arguments])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr


def test_without_the_extra_the_error_names_it(monkeypatch):
    import importlib.util

    from typer.testing import CliRunner

    from albert_act_fast import serve
    from albert_act_fast.cli.app import app

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name)
    )
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "needs fastapi: pip install 'albert_act_fast[serve]'" in result.stderr
    with pytest.raises(ImportError, match=r"albert_act_fast\[serve\]"):
        _ = serve.create_app


def _check_mapped(pid: int) -> None:
    if os.path.exists(f"/proc/{pid}/maps"):
        with open(f"/proc/{pid}/maps") as maps:
            assert "memfd:weights" in maps.read()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_refused(url: str) -> None:
    parts = urlsplit(url)
    while True:
        try:
            socket.create_connection((parts.hostname, parts.port)).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # under way when the server closed its door
