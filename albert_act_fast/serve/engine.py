"""What computes: an interface, and the engine in a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder
    from albert_act_fast.text.pipeline import Work
    from albert_act_fast.text.tokenize import TokenizedText


class EngineDied(Exception):
    """The engine went away.

    Attributes:
        had_begun: whether it had the texts by then.
    """

    def __init__(self, had_begun: bool):
        super().__init__("the engine died")
        self.had_begun = had_begun


class Engine(Protocol):
    """Computes one batch at a time."""

    @property
    def alive(self) -> bool:
        """Whether it can compute now."""

    async def start(self) -> None:
        """Returns once it can compute. Raises OSError, ValueError: it never will."""

    async def ready(self) -> None:
        """Returns once it can compute, which may need a replacement."""

    async def compute(self, task: str, texts: Sequence[TokenizedText]) -> list[Any]:
        """What `Work.computed` of the task gives for the texts.

        Raises:
            EngineDied: it went away; another one takes its place.
        """

    async def stop(self) -> None:
        """Ends it."""


def works_of(encoder: TextEncoder) -> dict[str, Work]:
    """The tasks that the encoder's model can do. "embed" gives parts that any embedding is made of;
    "embed normalized" differs only in what it makes of them."""
    options = encoder._options(False, False)
    works = {
        "depth": encoder._token_work(*encoder._depth_task()),
    }
    if encoder.pooling is not None:
        works["embed"] = encoder._embedding_work(options)
        works["embed normalized"] = encoder._embedding_work(options, normalize=True)
    try:
        works["predict"] = encoder._token_work(*encoder._class_task())
        works["predict raw"] = encoder._token_work(*encoder._class_task(raw=True))
    except ValueError:
        pass  # no head of that kind: /predict says so
    return works


def computed_as(task: str) -> str:
    """The task whose batches it can be in."""
    return "embed" if task == "embed normalized" else task


def warm_up(encoder: TextEncoder, works: dict[str, Work]) -> None:
    """One batch, so that weights are packed and libraries loaded before the first request."""
    (windows,) = works["depth"].tokenize(0, ["so"])
    works["depth"].computed(windows)


class LocalEngine:
    """Computes in a thread of this process."""

    def __init__(self, encoder: TextEncoder, works: dict[str, Work]):
        self._encoder, self._works = encoder, works
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.alive = False

    async def start(self) -> None:
        await self._run(warm_up, self._encoder, self._works)
        self.alive = True

    async def ready(self) -> None:
        return

    async def compute(self, task: str, texts: Sequence[TokenizedText]) -> list[Any]:
        return await self._run(self._works[task].computed, texts)

    async def stop(self) -> None:
        self.alive = False
        self._thread.shutdown(wait=False)

    async def _run(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
