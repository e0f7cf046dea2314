"""The ASGI application, used unchanged by uvicorn and by Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from albert_act_fast.serve import errors
from albert_act_fast.serve.errors import ServiceError
from albert_act_fast.serve.logs import log
from albert_act_fast.serve.middleware import Gate
from albert_act_fast.serve.routes import router
from albert_act_fast.serve.service import Service
from albert_act_fast.serve.settings import ModelOptions, ServeSettings
from albert_act_fast.version import __version__

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder

_ABOUT = """Embeddings, classes and depths of texts by ALBERT-ACT.

Routes and errors are those of text-embeddings-inference, `/v1/embeddings` is OpenAI's, `/depth` our
own. Every answer has an `x-request-id`; a request may bring one, and `X-Request-Timeout`, in
seconds."""


def create_app(
    model: str | ModelOptions | TextEncoder = "sentence",
    settings: ServeSettings | None = None,
    *,
    name: str | None = None,
    threads: int | None = None,
    make_service: Callable[..., Service] = Service,
) -> FastAPI:
    """
    Args:
        model: a name or folder, with how it computes, or an encoder that is at hand.
        settings: default, those of `ServeSettings`.
        name: of the model, as clients see it; default, the one it is loaded by.
        threads: of each worker; default, its share of the cores.

    Returns:
        An application; the model is loaded, and workers start, when its lifespan begins.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """
    from albert_act_fast import TextEncoder

    options = ModelOptions(model) if isinstance(model, str) else model
    settings = ServeSettings() if settings is None else settings
    if not isinstance(options, ModelOptions | TextEncoder):
        raise TypeError(
            f"model: got {type(model).__name__}, expected a name, ModelOptions or a TextEncoder."
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        encoder, shown = options, name or type(options).__name__
        if isinstance(options, ModelOptions):
            encoder, shown = await asyncio.to_thread(options.load), name or options.name
        service = make_service(encoder, settings, shown, threads)
        try:
            await service.start()
        except BaseException:
            await service.stop()
            raise
        app.state.service = service
        log("ready", model=service.name, workers=settings.workers)
        try:
            yield
        finally:
            await service.stop()
            log("stopped")

    app = FastAPI(
        title="albert_act_fast", version=__version__, description=_ABOUT, lifespan=lifespan
    )
    app.include_router(router)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(HTTPException)(_of_http)
    app.add_middleware(Gate, service=lambda: app.state.service)
    if settings.cors_origins:
        # Outside of the gate: a browser asks without a key first, and reads errors too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id", "x-request-timeout"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


async def _malformed(request: Request, error: RequestValidationError) -> Response:
    reasons = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"] if part != "body")
        if one["type"] == "json_invalid":
            place = f"body, character {place}"
        # Messages of types and unions are shown; what the client sent is not repeated.
        reasons.append(f"{place or 'body'}: {one['msg'].removeprefix('Value error, ')}")
    shown = "; ".join(reasons[:5]) + ("; ..." if len(reasons) > 5 else "")
    raise ServiceError(422, "Validation", shown)


async def _of_http(request: Request, error: HTTPException) -> Response:
    kinds = {404: "no such route", 405: "another method is expected"}
    reason = kinds.get(error.status_code, str(error.detail))
    status = 422 if error.status_code == 400 else error.status_code
    body, headers = errors.render(ServiceError(status, "Validation", reason), request.url.path)
    response = Response(body, status)
    response.raw_headers = [
        *headers,
        *((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()),
    ]
    return response
