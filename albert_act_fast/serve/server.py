"""The service under uvicorn, in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from albert_act_fast.serve.app import create_app
from albert_act_fast.serve.logs import log, quiet_loop
from albert_act_fast.serve.settings import ServeSettings

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


class Server(uvicorn.Server):
    """uvicorn's, but a signal that it follows by stopping gracefully does not come again after."""

    # Called once it listens, or has failed.
    on_start: Callable[[], None] = staticmethod(lambda: None)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        before = {}
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets=None) -> None:
        quiet_loop()
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for sock in server.sockets:
                host, port = sock.getsockname()[:2]
                log("listening", host=host, port=port)
        self.on_start()


def serve(
    encoder: TextEncoder,
    settings: ServeSettings,
    host: str,
    port: int,
    *,
    name: str,
    threads: int | None = None,
) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes what was accepted.

    Args:
        name, threads: as in `create_app`.

    Returns:
        Whether it had started; if not, the log says why.
    """
    config = uvicorn.Config(
        create_app(encoder, settings, name=name, threads=threads),
        host=host,
        port=port,
        # It bounds the size of headers, which httptools does not.
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=4096,
        # Longer than proxies keep theirs, so that these close first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.timeout + settings.transfer_timeout) + 1,
    )
    server = Server(config)
    try:
        server.run()
    except SystemExit:
        # uvicorn's, where it cannot listen.
        return False
    return server.started
