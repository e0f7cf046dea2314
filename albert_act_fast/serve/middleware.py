"""What happens to every request before and after its route."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress

from albert_act_fast.serve import errors
from albert_act_fast.serve.errors import ServiceError
from albert_act_fast.serve.logs import exception_fields, log
from albert_act_fast.serve.scheduler import Clock
from albert_act_fast.serve.service import RequestRecord, Service

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
# Without a key: whether the service lives, and what shows no more than its documentation.
_OPEN = ("/", "/health", "/docs", "/openapi.json")
# What is logged as the status of a client that went away, as nginx has it.
_GONE = 499


class Gate:
    """ASGI middleware: identity, key, limits, deadline, disconnection, log and metrics.

    The body is read here, within its limits, before the route begins. While the route works, a
    client that goes away cancels it.

    Args:
        service: gives the service once it has started.
    """

    def __init__(self, app, service: Callable[[], Service]):
        self.app, self._service = app, service
        self._active = 0
        self._held = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = self._service()
        begin, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        known = _REQUEST_ID.fullmatch(given)
        record = RequestRecord(given.decode() if known else uuid.uuid4().hex)
        scope["albert_act_fast.record"] = record
        answer = _Answer(send, record.id, service)
        status = None
        service.metrics.active.inc()
        try:
            await self._answer(service, scope, headers, receive, answer, record)
            status = answer.status
        except _Gone:
            status = _GONE
        except ServiceError as error:
            status = error.status
            record.error = error.kind
            await self._refuse(answer, scope, error)
        except asyncio.CancelledError:
            status = _GONE
            raise
        except Exception as error:
            status, record.error = 500, "Internal"
            log("error in a route", level="error", id=record.id, **exception_fields(error))
            if answer.status is not None:
                raise _Broken from None
            await self._refuse(answer, scope, ServiceError(500, "Internal", "internal error"))
        finally:
            service.metrics.active.dec()
            self._note(service, scope, record, status, time.perf_counter() - begin)

    async def _answer(self, service, scope, headers, receive, answer, record) -> None:
        settings = service.settings
        record.deadline = service.clock.time() + settings.timeout
        if settings.api_key is not None and scope["path"] not in _OPEN:
            _check_key(headers.get(b"authorization", b""), settings.api_key)
        if scope["method"] != "POST":
            await self.app(scope, receive, answer.send)
            return
        record.deadline = service.clock.time() + _timeout(headers, settings.timeout)
        if self._active >= settings.max_concurrent_requests:
            raise errors.overloaded(
                "too many requests are being answered", service.batcher.retry_after()
            )
        self._active += 1
        held = _Held(self)
        try:
            body = await self._body(service, headers, receive, held)
            await _unless_gone(self.app, scope, body, receive, answer)
        finally:
            held.release()
            self._active -= 1

    async def _body(self, service, headers, receive, held) -> bytes:
        settings, limit = service.settings, service.settings.max_body_bytes
        length = headers.get(b"content-length", b"0")
        too_long = ServiceError(413, "Validation", f"body: expected at most {limit} bytes")
        if length.isdigit() and int(length[:20]) > limit:
            raise too_long
        chunks: list[bytes] = []
        size, end = 0, service.clock.time() + settings.transfer_timeout
        while True:
            try:
                message = await _until(service.clock, end, receive())
            except asyncio.TimeoutError:
                reason = f"body: not received in {settings.transfer_timeout:g} seconds"
                raise ServiceError(408, "Timeout", reason) from None
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise too_long
            if self._held + len(chunk) > settings.max_held_bytes:
                raise errors.overloaded(
                    "the requests being answered are too large together",
                    service.batcher.retry_after(),
                )
            held.add(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    @staticmethod
    async def _refuse(answer: _Answer, scope, error: ServiceError) -> None:
        if answer.status is not None:
            return
        body, headers = errors.render(error, scope["path"])
        if error.status in (408, 413):
            # The rest of the body is not waited for.
            headers.append((b"connection", b"close"))
        with suppress(_Gone):
            await answer.send(
                {"type": "http.response.start", "status": error.status, "headers": headers}
            )
            await answer.send({"type": "http.response.body", "body": body})

    @staticmethod
    def _note(service: Service, scope, record: RequestRecord, status, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        metrics = service.metrics
        metrics.requests.labels(route).inc()
        metrics.answers.labels(route, status).inc()
        metrics.duration.labels(route).observe(seconds)
        if record.error is None and status is not None and status >= 400:
            record.error = "Gone" if status == _GONE else "Request"
        if record.error is not None:
            metrics.failures.labels(record.error).inc()
        if status is not None and status < 400 and route in ("/health", "/metrics", "other"):
            return
        fields = {
            "id": record.id,
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "texts": record.texts,
            "tokens": record.tokens,
            "rows": record.rows,
        }
        if record.queue_seconds is not None:
            fields["queue_seconds"] = round(record.queue_seconds, 6)
        if record.error is not None:
            fields["error"] = record.error
        log("request", **fields)


class _Gone(Exception):
    """The client went away, or takes too long."""


class _Broken(Exception):
    """An answer that had begun cannot be finished: the server closes the connection."""


class _Held:
    """Bytes of one body among those that are held."""

    def __init__(self, gate: Gate):
        self._gate, self._bytes = gate, 0

    def add(self, count: int) -> None:
        self._bytes += count
        self._gate._held += count

    def release(self) -> None:
        self._gate._held -= self._bytes
        self._bytes = 0


class _Answer:
    """`send`, with the request's id in the headers and a limit on the client's time."""

    def __init__(self, send, request_id: str, service: Service):
        self._send, self._id = send, request_id.encode()
        self._clock, self._timeout = service.clock, service.settings.transfer_timeout
        self.status: int | None = None
        self.complete = False

    async def send(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id)]
            message = {**message, "headers": headers}
        try:
            await _until(self._clock, self._clock.time() + self._timeout, self._send(message))
        except (asyncio.TimeoutError, OSError):
            raise _Gone from None
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True


async def _until(clock: Clock, end: float, coroutine):
    """The coroutine's result.

    Raises:
        asyncio.TimeoutError: the clock came to `end` before.
    """
    task, late = asyncio.ensure_future(coroutine), False

    def stop() -> None:
        nonlocal late
        late = task.cancel()

    timer = clock.call_at(end, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


def _check_key(given: bytes, key: str) -> None:
    scheme, _, token = given.partition(b" ")
    right = hmac.compare_digest(token.strip(), key.encode())
    if not (right and scheme.lower() == b"bearer"):
        raise ServiceError(401, "Unauthorized", "expected Authorization: Bearer and the key")


def _timeout(headers: dict, longest: float) -> float:
    given = headers.get(b"x-request-timeout")
    if given is None:
        return longest
    if not _SECONDS.fullmatch(given) or float(given) == 0:
        raise ServiceError(
            422, "Validation", "X-Request-Timeout: expected seconds above 0, as in 2.5"
        )
    return min(longest, float(given))


async def _unless_gone(app, scope, body: bytes, receive, answer: _Answer) -> None:
    """The route with its whole body; cancelled when the client goes away."""
    parts: Iterable = iter([{"type": "http.request", "body": body, "more_body": False}])
    ended = asyncio.get_running_loop().create_future()

    async def replay():
        for message in parts:
            return message
        await ended
        return {"type": "http.disconnect"}

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    route = asyncio.ensure_future(app(scope, replay, answer.send))
    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({route, watch}, return_when=asyncio.FIRST_COMPLETED)
        # A server says the same of a client that went away and of one that has its answer.
        if not route.done() and not answer.complete:
            raise _Gone
        await route
    finally:
        for task in (route, watch):
            task.cancel()
        await asyncio.gather(route, watch, return_exceptions=True)
