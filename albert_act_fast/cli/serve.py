"""`serve`: the service on this machine."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from albert_act_fast.cli import loading, options
from albert_act_fast.cli.encode import PoolingOption
from albert_act_fast.cli.errors import FAILURE, CommandError

_KEY = "ALBERT_ACT_FAST_API_KEY"


class LogLevel(str, Enum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _limit(name: str, text: str, least: int = 1):
    return Annotated[int, typer.Option(name, min=least, help=text)]


def serve(
    model: options.ModelOption = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8080,
    workers: _limit(
        "--workers",
        "Processes that compute, each with its share of the cores; 0: a thread of the server.",
        0,
    ) = 1,
    pooling: PoolingOption = None,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    tokenization: options.TokenizationOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="Threads of each worker.", show_default="its share of cores"
        ),
    ] = None,
    max_batch_tokens: _limit("--max-batch-tokens", "Most tokens computed at once.") = 2048,
    max_queue_tokens: _limit("--max-queue-tokens", "Most tokens that wait; then 429.") = 65536,
    max_concurrent_requests: _limit(
        "--max-concurrent-requests", "Most requests being answered; then 429."
    ) = 512,
    max_client_batch_size: _limit(
        "--max-client-batch-size", "Most texts in a request; then 413."
    ) = 32,
    payload_limit: _limit("--payload-limit", "Most bytes of a request; then 413.") = 2_000_000,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds for an answer; then 504.")
    ] = 30.0,
    truncate: options.TruncateOption = False,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar=_KEY,
            help="What clients have to send as Authorization: Bearer KEY. In the environment it is "
            "not seen by other users.",
            show_default="none is needed",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="Pages of this origin may call the service; repeatable.",
            show_default="none may",
        ),
    ] = None,
    page: Annotated[bool, typer.Option(help="A page at / that shows depths.")] = True,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="The least that is logged.")
    ] = LogLevel.INFO,
) -> None:
    """Embeddings, classes and depths over HTTP, until SIGTERM.

    The routes are those of text-embeddings-inference and OpenAI's /v1/embeddings; docs/serve.md
    has them.
    """
    from albert_act_fast.serve import ServeSettings, require_extra

    try:
        require_extra()
    except ImportError as error:
        raise CommandError(str(error)) from None
    settings = {
        "workers": workers,
        "max_batch_tokens": max_batch_tokens,
        "max_queue_tokens": max_queue_tokens,
        "max_concurrent_requests": max_concurrent_requests,
        "max_client_batch_size": max_client_batch_size,
        "max_body_bytes": payload_limit,
        "timeout": timeout,
        "truncate": truncate,
        "api_key": api_key,
        "cors_origins": tuple(cors_origin or ()),
        "page": page,
    }
    with loading.option_errors():
        settings = ServeSettings(**settings)
    name = loading.DEFAULT_MODEL if model is None else model
    encoder = loading.load(name, implementation, device, dtype, quantization, threads, tokenization)
    if pooling is not None:
        encoder.pooling = pooling.value
    with loading.option_errors():
        encoder._embedding_work(encoder._options(False, False))
    from albert_act_fast.serve import logs
    from albert_act_fast.serve.server import serve

    logs.configure(log_level.value)
    if not serve(encoder, settings, host, port, name=name, threads=threads):
        raise CommandError(f"the service has not started on {host}:{port}; see above", FAILURE)
