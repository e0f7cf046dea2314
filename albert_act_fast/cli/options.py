"""The options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Device(str, Enum):
    """Where the model runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Dtype(str, Enum):
    """The floating-point type of weights and states; the halting state is float32 in all."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Quantization(str, Enum):
    """What the encoder's products are rounded to."""

    INT8 = "int8"


class Tokenization(str, Enum):
    """The rule that cuts texts by a spiece.model; `albert_act_fast.tokenizer.RULES`."""

    PUBLISHED = "published"
    TRANSFORMERS = "transformers"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="DIR|NAME",
        help="A folder, a hub name, or a small trained model that ships: sentence or sst2.",
        show_default="sentence",
    ),
]
ImplementationOption = Annotated[
    str | None,
    typer.Option(
        "--implementation",
        metavar="NAME",
        help="auto, reference, torch, cpp, triton or cuda; `info` tells which are available.",
        show_default="the model's own, mostly auto",
    ),
]
DeviceOption = Annotated[
    Device | None,
    typer.Option("--device", help="Where to run.", show_default="cuda if there is one"),
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Type of weights and states.")]
QuantizationOption = Annotated[
    Quantization | None,
    typer.Option("--quantization", help="int8 products in the encoder.", show_default="none"),
]
TokenizationOption = Annotated[
    Tokenization | None,
    typer.Option(
        "--tokenization",
        help="How a spiece.model cuts texts: as the published checkpoints were trained, or as "
        "transformers 5 does.",
        show_default="as the model was trained, by its folder",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads that compute.", show_default="as many as cores"),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Most texts computed at once.",
        show_default="by their tokens",
    ),
]
FieldOption = Annotated[
    str | None,
    typer.Option(
        "--field", metavar="NAME", help="Column or key of the texts.", show_default="text"
    ),
]
TruncateOption = Annotated[
    bool,
    typer.Option("--truncate", help="Cut texts that are too long for the model; else an error."),
]
SkipEmptyOption = Annotated[
    bool,
    typer.Option(
        "--skip-empty",
        help="Leave out, and count, lines without a token that the model knows; else an error.",
    ),
]
MaxIterationsOption = Annotated[
    int | None,
    typer.Option(
        "--max-iterations", min=1, help="Fewer than the model's own.", show_default="the model's"
    ),
]
ActEpsilonOption = Annotated[
    float | None,
    typer.Option(
        "--act-epsilon",
        help="Another halting threshold, 1 - act_epsilon.",
        show_default="the model's",
    ),
]
