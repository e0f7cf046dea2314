"""Errors as clients see them: a status, a kind by text-embeddings-inference's names, a reason."""

from __future__ import annotations

import json

from albert_act_fast.text import TextError

# TextError.kind: status and kind of the answer. 413 and 424 are what text-embeddings-inference
# answers; its clients look at the status.
_OF_TEXT = {
    "type": (422, "Validation"),
    "unicode": (422, "Tokenizer"),
    "empty": (422, "Empty"),
    "unknown": (422, "Tokenizer"),
    "too long": (413, "Validation"),
    "not finite": (424, "Backend"),
    "memory": (424, "Backend"),
}
_ADVICE = {"too long": '; "truncate": true cuts it'}


class ServiceError(Exception):
    """A request, or one text of it, has no result.

    Attributes:
        status: HTTP's.
        kind: "Validation", "Tokenizer", "Empty", "Overloaded", "Backend", "Unhealthy", "Timeout" or
            "Unauthorized".
        reason: for the client; it may quote what the client sent, so it is never logged.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(self, status: int, kind: str, reason: str, retry_after: int | None = None):
        # Without the reason: what prints an exception would print it.
        super().__init__(f"{status} {kind}")
        self.status = status
        self.kind = kind
        self.reason = reason
        self.retry_after = retry_after


def of_text(error: TextError, field: str = "inputs") -> ServiceError:
    """A text's failure as the answer to the request that it is in."""
    status, kind = _OF_TEXT[error.kind]
    reason = f"{field}[{error.index}]: {error.reason}{_ADVICE.get(error.kind, '')}"
    return ServiceError(status, kind, reason)


def overloaded(reason: str, retry_after: int) -> ServiceError:
    return ServiceError(429, "Overloaded", reason, retry_after)


def render(error: ServiceError, path: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of the answer: OpenAI's shape below /v1, else that of
    text-embeddings-inference."""
    if path.startswith("/v1/"):
        # So that OpenAI's client shows the reason.
        document: dict = {
            "error": {"message": error.reason, "type": error.kind, "code": error.status}
        }
    else:
        document = {"error": error.reason, "error_type": error.kind}
    # ASCII: a reason may quote a lone surrogate, which UTF-8 cannot say.
    body = json.dumps(document).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return body, headers
