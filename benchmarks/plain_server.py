"""What one writes first: FastAPI around SentenceTransformer.encode, in batches of a fixed size.

Requests wait until the batch is full or a timer ends. Beside the service in `run serve`.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

BATCH_SIZE = 32
# Seconds that the first of a batch waits for others.
PATIENCE = 0.01


class Texts(BaseModel):
    """The body of /embed."""

    inputs: list[str]


def make_app(folder: str) -> FastAPI:
    """The application over the model in that folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from albert_act_fast.text.sentence_transformers import AlbertActTransformer

    transformer = AlbertActTransformer(folder)
    model = SentenceTransformer(modules=[transformer, Pooling(_columns(folder), "mean")])
    queue: asyncio.Queue = asyncio.Queue()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await queue.get()]
            end = loop.time() + PATIENCE
            while len(batch) < BATCH_SIZE:
                try:
                    batch.append(await asyncio.wait_for(queue.get(), end - loop.time()))
                except asyncio.TimeoutError:
                    break
            texts = [text for text, _ in batch]
            rows = await asyncio.to_thread(
                model.encode, texts, batch_size=BATCH_SIZE, normalize_embeddings=True
            )
            for (_, answer), row in zip(batch, rows, strict=True):
                answer.set_result(row.tolist())

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.serve = asyncio.create_task(serve())
        yield
        app.state.serve.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/embed")
    async def embed(body: Texts) -> list[list[float]]:
        answers = [asyncio.get_running_loop().create_future() for _ in body.inputs]
        for pair in zip(body.inputs, answers, strict=True):
            queue.put_nowait(pair)
        return await asyncio.gather(*answers)

    return app


def _columns(folder: str) -> int:
    from albert_act_fast import AlbertActConfig

    return AlbertActConfig.from_pretrained(folder).hidden_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.model), port=arguments.port, log_level="warning")
