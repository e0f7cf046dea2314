"""What clients send and get, as text-embeddings-inference and OpenAI shape it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_TEXT = "Call me Ishmael."


def _texts(value):
    """Of the errors of a union none says what was expected."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ValueError("got no text, expected at least one")
    for place, item in enumerate(items):
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise ValueError(
                f"got token ids in place {place}, expected text: which tokenizer made them cannot "
                "be seen (langchain's OpenAIEmbeddings sends text where it is given "
                "check_embedding_ctx_length=False)"
            )
        if not isinstance(item, str):
            raise ValueError(
                f"got {_json_type(item)} in place {place}, expected a string or a list of strings"
            )
    return value


def _sequences(value):
    if isinstance(value, str):
        return value
    items = value if isinstance(value, list) else [None]
    if items and all(isinstance(item, str) for item in items):
        items = [items]
    if not items:
        raise ValueError("got no text, expected at least one")
    for place, item in enumerate(items):
        if not (
            isinstance(item, list)
            and 1 <= len(item) <= 2
            and all(isinstance(text, str) for text in item)
        ):
            raise ValueError(
                f"got another shape in place {place}, expected a string, or a list of lists of one "
                'string, as in [["one"], ["two"]]'
            )
        if len(item) == 2:
            raise ValueError(
                f"got a pair of texts in place {place}, expected single ones: the models here take "
                'no pairs (a batch is [["one"], ["two"]])'
            )
    return value


def _json_type(value) -> str:
    names = {dict: "an object", bool: "a truth value", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _right(value):
    if isinstance(value, str) and value.lower() == "right":
        return "right"
    raise ValueError("expected 'right': texts are cut at their end")


Texts = Annotated[
    str | list[str], BeforeValidator(_texts), Field(description="One text, or several.")
]
Sequences = Annotated[
    str | list[str] | list[list[str]],
    BeforeValidator(_sequences),
    Field(description="One text, or several, each in a list of its own. Pairs are refused."),
]
Truncate = Annotated[
    bool | None,
    Field(description="Cut what is too long; else it is an error. Default: the service's."),
]
Direction = Annotated[
    Literal["right", "Right"], BeforeValidator(_right), Field(description="Where texts are cut.")
]
Nothing = Annotated[None, Field(description="Known elsewhere; here only null.")]


class _Request(BaseModel):
    # A misspelt setting is an error, not the default.
    model_config = ConfigDict(extra="forbid", strict=True)


class EmbedRequest(_Request):
    """Texts for /embed."""

    inputs: Texts = Field(examples=[[_TEXT, "It was the best of times."], _TEXT])
    truncate: Truncate = None
    truncation_direction: Direction = "right"
    normalize: bool = Field(True, description="Divide each embedding by its norm.")
    prompt_name: Nothing = None
    dimensions: int | None = Field(None, description="The model's own, or null.")


class PredictRequest(_Request):
    """Texts for /predict."""

    inputs: Sequences = Field(examples=["A warm, funny film.", [["A warm film."], ["A bore."]]])
    truncate: Truncate = None
    truncation_direction: Direction = "right"
    raw_scores: bool = Field(False, description="Logits instead of probabilities.")
    parameters: dict[str, None] | None = Field(
        None, description="Sent along by Hugging Face's client; here nothing is set in it."
    )


class TokenizeRequest(_Request):
    """Texts for /tokenize."""

    inputs: Texts = Field(examples=[_TEXT])
    add_special_tokens: bool = True
    prompt_name: Nothing = None


class DepthRequest(_Request):
    """Texts for /depth."""

    inputs: Texts = Field(examples=[_TEXT])
    truncate: Truncate = None


class OpenAIRequest(_Request):
    """OpenAI's request for embeddings."""

    input: Texts = Field(examples=[[_TEXT, "It was the best of times."], _TEXT])
    model: str | None = Field(
        None, description="Ignored: the service has one model.", examples=["sentence"]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="The model's own, or null.")
    user: str | None = Field(None, description="Ignored.")


class Prediction(BaseModel):
    """A label of a text."""

    score: float
    label: str


class Token(BaseModel):
    """A token; start, stop: its characters in the text, null for a special token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DepthToken(Token):
    """A token and the iterations that it took."""

    iterations: int


class Depth(BaseModel):
    """The depths of one text; rows: the sum of its tokens' iterations."""

    tokens: list[DepthToken]
    rows: int
    mean_iterations: float
    max_iterations: int
    truncated: bool


class ErrorResponse(BaseModel):
    """Why there is no result."""

    error: str = Field(examples=["inputs[0]: got 600 tokens, expected at most 512"])
    error_type: str = Field(examples=["Validation"])


class OpenAIError(BaseModel):
    """OpenAI's shape of the reason."""

    message: str
    type: str
    code: int


class OpenAIErrorResponse(BaseModel):
    """Why there is no result."""

    error: OpenAIError


class OpenAIEmbedding(BaseModel):
    """One embedding; base64 is of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens, special ones included."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(BaseModel):
    """Embeddings in the order of the texts, divided by their norms."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class Info(BaseModel):
    """What runs, and its limits."""

    model_id: str
    model_sha: None = None
    model_dtype: str
    model_type: dict
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    iteration_limit: int
    implementation: str
    workers: int
