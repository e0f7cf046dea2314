"""One JSON object a line. Nothing that a client sent stands in a log but the request's id."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

_logger = logging.getLogger("albert_act_fast.serve")


def log(event: str, *, level: str = "info", **fields: Any) -> None:
    """A line of this package's own; `fields` hold numbers and names, never a text of a client."""
    _logger.log(logging.getLevelName(level.upper()), event, extra={"fields": fields})


def exception_fields(error: BaseException) -> dict:
    """An error without its message, which may quote a text."""
    return {
        "error": type(error).__name__,
        "where": [line.strip() for line in traceback.format_tb(error.__traceback__)],
    }


class JsonFormatter(logging.Formatter):
    """Records of any library as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _logger.name:
            document["logger"] = record.name
        document |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            document |= exception_fields(record.exc_info[1])
        return json.dumps(document)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """All logging of this process as JSON on stderr (or `stream`)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(level.upper())
    # Its lines on requests hold paths; ours hold the route.
    logging.getLogger("uvicorn.access").disabled = True


def quiet_loop() -> None:
    """asyncio's own report of an error that nobody awaited would quote it."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict) -> None:
        error = context.get("exception")
        fields = {} if error is None else exception_fields(error)
        log("error in the event loop", level="error", **fields)

    asyncio.get_running_loop().set_exception_handler(handle)
