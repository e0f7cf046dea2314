"""What the operator of a service sets. A client sets none of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder


@dataclass(frozen=True)
class ModelOptions:
    """A model and how it computes, as `TextEncoder.from_pretrained` takes them; names instead of
    torch's objects, so that it can be written down and sent to another process."""

    name: str = "sentence"
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    implementation: str | None = None
    pooling: str | None = None

    def load(self) -> TextEncoder:
        """
        Raises:
            OSError, ValueError: as `TextEncoder.from_pretrained`.
        """
        import torch

        from albert_act_fast import TextEncoder

        encoder = TextEncoder.from_pretrained(
            self.name,
            device=self.device,
            dtype=None if self.dtype is None else getattr(torch, self.dtype),
            quantization=self.quantization,
            implementation=self.implementation,
        )
        if self.pooling is not None:
            encoder.pooling = self.pooling
        return encoder


@dataclass(frozen=True)
class ServeSettings:
    """Limits and behaviour of a service.

    Attributes:
        workers: processes that compute, each with its share of the cores; 0 computes in a thread of
            the server's own process.
        max_batch_tokens: most tokens computed at once by a worker (at least one text).
        max_batch_texts: most texts computed at once.
        max_queue_tokens: most tokens that wait; beyond it a request is answered 429.
        max_concurrent_requests: most requests that are being answered; beyond it 429.
        max_client_batch_size: most texts in a request; beyond it 413.
        max_body_bytes: of a request's body; beyond it 413.
        max_held_bytes: of all bodies that are being read or answered; beyond it 429.
        timeout: seconds in which a request is answered, or else refused with 504; a client may ask
            for less with the header X-Request-Timeout.
        transfer_timeout: seconds that a client may take to send a body, or to take in a part of the
            answer.
        truncate: what `truncate` is in a request that does not say.
        api_key: what clients must send as `Authorization: Bearer KEY`; None lets everyone in.
        cors_origins: origins whose pages may call the service.
        page: whether `/` shows the page.

    Raises:
        ValueError: a setting is out of its range.
    """

    workers: int = 1
    max_batch_tokens: int = 2048
    max_batch_texts: int = 256
    max_queue_tokens: int = 65536
    max_concurrent_requests: int = 512
    max_client_batch_size: int = 32
    max_body_bytes: int = 2_000_000
    max_held_bytes: int = 64 << 20
    timeout: float = 30.0
    transfer_timeout: float = 30.0
    truncate: bool = False
    # Not shown where settings are printed.
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()
    page: bool = True

    def __post_init__(self):
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type == "int":
                least = 0 if one.name == "workers" else 1
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise ValueError(
                        f"{one.name}: got {value!r}, expected a whole number from {least}."
                    )
            elif one.type == "float" and not (
                isinstance(value, int | float) and 0 < value < float("inf")
            ):
                raise ValueError(
                    f"{one.name}: got {value!r}, expected a number of seconds above 0."
                )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise ValueError("api_key: got an empty key or one that is not ASCII.")
        if isinstance(self.cors_origins, str):
            raise ValueError("cors_origins: got a string, expected a tuple of them.")


def shares(workers: int, threads: int | None = None) -> list[tuple[int, tuple[int, ...]]]:
    """Threads and cores of each worker: the cores that this process may use, dealt out.

    Where there are more workers than cores, each has one thread and no core of its own; neither has
    one where `threads`, of each worker, asks for another number than its share.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    found = []
    for worker in range(workers):
        first = worker * len(cores) // workers
        own = tuple(cores[first : (worker + 1) * len(cores) // workers])
        if workers > len(cores) or (threads is not None and threads != len(own)):
            found.append((threads or 1, ()))
        else:
            found.append((len(own), own))
    return found
