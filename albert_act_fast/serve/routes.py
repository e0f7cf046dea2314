"""The routes: what a request asks for and how the answer is written."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import orjson
from fastapi import APIRouter, Request, Response

from albert_act_fast.serve import page, schemas
from albert_act_fast.serve.errors import ServiceError, of_text
from albert_act_fast.serve.service import _TOKENIZERS, RequestRecord, Service
from albert_act_fast.text import TextError
from albert_act_fast.text.tokenize import TokenizeOptions

if TYPE_CHECKING:
    from albert_act_fast.text import TextDepth

router = APIRouter()
_ERRORS = {
    401: "The key is missing or wrong.",
    413: "Too long, or too many texts.",
    422: "Malformed, or a text with no token.",
    424: "The model cannot do that, or fails on this text.",
    429: "Full; Retry-After says when to come again.",
    503: "No worker, for now.",
    504: "Not computed in time.",
}


def _responses(model) -> dict:
    return {code: {"model": model, "description": why} for code, why in _ERRORS.items()}


_TEI = _responses(schemas.ErrorResponse)


@router.post("/embed", response_model=list[list[float]], responses=_TEI, tags=["embeddings"])
async def embed(body: schemas.EmbedRequest, request: Request) -> Response:
    """One embedding a text."""
    service, record = _of(request)
    _check_dimensions(service, body.dimensions)
    task = "embed normalized" if body.normalize else "embed"
    found = await service.results(task, _list(body.inputs), record, truncate=body.truncate)
    return _json([one.embedding for one in found])


@router.post(
    "/v1/embeddings",
    response_model=schemas.OpenAIResponse,
    responses=_responses(schemas.OpenAIErrorResponse),
    tags=["embeddings"],
)
async def openai_embeddings(body: schemas.OpenAIRequest, request: Request) -> Response:
    """Embeddings in OpenAI's shape, each of norm 1."""
    service, record = _of(request)
    _check_dimensions(service, body.dimensions)
    found = await service.results(
        "embed normalized", _list(body.input), record, truncate=None, field="input"
    )
    rows = [one.embedding for one in found]
    if body.encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    data = [
        {"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": record.tokens, "total_tokens": record.tokens}
    return _json({"object": "list", "data": data, "model": service.name, "usage": usage})


@router.post(
    "/predict",
    response_model=list[schemas.Prediction] | list[list[schemas.Prediction]],
    responses=_TEI,
    tags=["classes"],
)
async def predict(body: schemas.PredictRequest, request: Request) -> Response:
    """The score of each label, the best first; of a batch, a list for each text."""
    service, record = _of(request)
    batch = isinstance(body.inputs, list) and isinstance(body.inputs[0], list)
    texts = [one for (one,) in body.inputs] if batch else _list(body.inputs)
    task = "predict raw" if body.raw_scores else "predict"
    found = await service.results(task, texts, record, truncate=body.truncate)
    scores = [
        sorted(
            ({"score": score, "label": label} for label, score in one.scores.items()),
            key=lambda entry: -entry["score"],
        )
        for one in found
    ]
    return _json(scores if batch else scores[0])


@router.post("/tokenize", response_model=list[list[schemas.Token]], responses=_TEI, tags=["tokens"])
async def tokenize(body: schemas.TokenizeRequest, request: Request) -> Response:
    """The tokens of each text, however many."""
    service, record = _of(request)
    texts = _list(body.inputs)
    record.texts = len(texts)
    _check_count(service, texts)
    found = await service.tokenize(texts, TokenizeOptions(offsets=True, chunk=True))
    results = []
    for windows in found:
        if isinstance(windows, TextError):
            raise of_text(windows)
        tokens: list[dict] = []
        own: list[dict] = []
        for window in windows:
            tokens = _tokens(service, window.input_ids, window.offsets)
            places = service.encoder._tokenizer.own_places(window)
            own += [tokens[place] for place in places]
        before, after = tokens[: places.start], tokens[places.stop :]
        results.append([*before, *own, *after] if body.add_special_tokens else own)
        record.tokens += len(results[-1])
    return _json(results)


@router.post(
    "/depth",
    response_model=list[schemas.Depth | schemas.ErrorResponse],
    responses=_TEI,
    tags=["tokens"],
)
async def depth(body: schemas.DepthRequest, request: Request) -> Response:
    """The iterations of each token; a text that fails has its error in its place."""
    service, record = _of(request)
    found = await service.results(
        "depth", _list(body.inputs), record, truncate=body.truncate, collect=True
    )
    return _json([_depth(service, one) for one in found])


@router.get("/info", response_model=schemas.Info, tags=["service"])
async def info(request: Request) -> Response:
    """The model and the service's limits."""
    from albert_act_fast.version import __version__

    service, _ = _of(request)
    encoder, settings = service.encoder, service.settings
    config = encoder.config
    kind: dict = {"embedding": {"pooling": encoder.pooling}}
    if "predict" in service.works:
        kind = {"classifier": {"id2label": config.id2label, "label2id": config.label2id}}
    return _json(
        {
            "model_id": service.name,
            "model_sha": None,
            "model_dtype": config.quantization or str(encoder.dtype).removeprefix("torch."),
            "model_type": kind,
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_input_length": encoder.max_tokens,
            "max_batch_tokens": settings.max_batch_tokens,
            "max_batch_requests": settings.max_batch_texts,
            "max_client_batch_size": settings.max_client_batch_size,
            "auto_truncate": settings.truncate,
            "tokenization_workers": _TOKENIZERS,
            "version": __version__,
            "iteration_limit": config.num_hidden_layers,
            "implementation": encoder.implementation,
            "workers": settings.workers,
        }
    )


@router.get("/health", responses={503: _TEI[503]}, tags=["service"])
async def health(request: Request) -> Response:
    """200 where something can compute."""
    service, _ = _of(request)
    if not service.alive:
        raise ServiceError(503, "Unhealthy", "no worker can compute", 1)
    return Response()


@router.get(
    "/metrics",
    tags=["service"],
    responses={200: {"content": {"text/plain": {}}}},
    response_class=Response,
)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    service, _ = _of(request)
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")


@router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """A page that shows the depths of a text."""
    service, _ = _of(request)
    if not service.settings.page:
        raise ServiceError(404, "Validation", "no page")
    return Response(page.HTML, media_type="text/html", headers=page.HEADERS)


def _of(request: Request) -> tuple[Service, RequestRecord]:
    return request.app.state.service, request.scope["albert_act_fast.record"]


def _json(document) -> Response:
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


def _list(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _check_count(service: Service, texts: list[str]) -> None:
    most = service.settings.max_client_batch_size
    if len(texts) > most:
        reason = f"inputs: got {len(texts)} texts, expected at most {most} in a request"
        raise ServiceError(413, "Validation", reason)


def _check_dimensions(service: Service, dimensions: int | None) -> None:
    own = service.encoder.embedding_dimension
    if dimensions not in (None, own):
        reason = f"dimensions: got {dimensions}, expected {own}, which the model has, or null"
        raise ServiceError(422, "Validation", reason)


def _tokens(service: Service, input_ids, offsets) -> list[dict]:
    tokenizer = service.encoder._tokenizer
    pieces, own = tokenizer.pieces(input_ids), tokenizer.own_range(len(input_ids))
    offsets = offsets or [(None, None)] * len(input_ids)
    return [
        {
            "id": number,
            "text": piece,
            "special": place not in own,
            "start": start if place in own else None,
            "stop": stop if place in own else None,
        }
        for place, (number, piece, (start, stop)) in enumerate(
            zip(input_ids, pieces, offsets, strict=True)
        )
    ]


def _depth(service: Service, one: TextDepth | ServiceError) -> dict:
    if isinstance(one, ServiceError):
        return {"error": one.reason, "error_type": one.kind}
    tokens = _tokens(service, one.input_ids, one.offsets)
    for token, iterations in zip(tokens, one.iterations, strict=True):
        token["iterations"] = iterations
    return {
        "tokens": tokens,
        "rows": one.cost.rows,
        "mean_iterations": one.cost.mean_iterations,
        "max_iterations": max(one.iterations),
        "truncated": one.cost.truncated,
    }
