"""`albert-act-fast serve` as a process of its own, and its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx


class ServeProcess:
    """The command with a port of its own choice; `with` waits until it listens, and kills it.

    Attributes:
        lines: of its log so far, as objects.
    """

    def __init__(self, model: Path | str, *arguments: str, env: dict[str, str] | None = None):
        command = [sys.executable, "-m", "albert_act_fast", "serve", "--port", "0"]
        # A busy machine is no reason to refuse.
        command += ["--timeout", "86400"]
        self.process = subprocess.Popen(
            [*command, "--model", str(model), *arguments],
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
            # A shell may have told its background processes to ignore SIGINT.
            start_new_session=True,
        )
        self.lines: list[dict] = []
        self._came = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServeProcess:
        self.url = f"http://127.0.0.1:{self.wait_for('listening')['port']}"
        self.client = httpx.Client(base_url=self.url, timeout=None, trust_env=False)
        return self

    def __exit__(self, *args) -> None:
        self.client.close()
        # Its workers too: one that a test has stopped would hold the log open for ever.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def wait_for(self, event: str, count: int = 1) -> dict:
        """The log line of that event, the `count`-th, once it has come."""
        with self._came:
            while True:
                found = self.events(event)
                if len(found) >= count:
                    return found[count - 1]
                assert not self._ended, (event, self.lines)
                self._came.wait()

    def events(self, event: str) -> list[dict]:
        return [line for line in self.lines if line["event"] == event]

    def metric(self, name: str) -> float:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def wait_for_metric(self, name: str, value: float) -> None:
        """Returns once the metric has that value. It must keep it: others may be missed."""
        while self.metric(name) != value:
            pass

    def tokenized(self) -> float:
        """Requests whose texts have been queued."""
        return self.metric("te_request_tokenization_duration_count")

    def wait_until_computing(self, tokenized: float) -> None:
        """Returns once so many have been, and the last of them has gone to an engine."""
        self.wait_for_metric("te_request_tokenization_duration_count", tokenized)
        self.wait_for_metric("te_queue_size", 0)

    def wait(self) -> int:
        """Its exit status."""
        status = self.process.wait()
        self._reader.join()
        return status

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._came:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.lines.append({"event": "not JSON", "line": line})
                self._came.notify_all()
        with self._came:
            self._ended = True
            self._came.notify_all()
