"""Every name of a weight in TensorFlow, beside ours: the one table."""

from __future__ import annotations

import re
from typing import NamedTuple


class TensorFlowName(NamedTuple):
    """One weight.

    ours: in the state dict, without the prefix `albert.` of task models.
    keras: variable of the published Keras class, behind its own scope; what tf_model.h5 holds.
    pretraining: variable of the published pre-training code, "" where it has none.
    transposed: TensorFlow keeps [inputs, outputs], in Keras and, unless `rows` says otherwise, in
        pre-training.
    rows: pre-training keeps it as [outputs, inputs].
    """

    ours: str
    keras: str
    pretraining: str
    transposed: bool = False
    rows: bool = False


def _linear(ours: str, keras: str, pretraining: str) -> list[TensorFlowName]:
    scope = f"{pretraining}/" if pretraining else ""
    return [
        TensorFlowName(f"{ours}.weight", f"{keras}/kernel", scope and f"{scope}kernel", True),
        TensorFlowName(f"{ours}.bias", f"{keras}/bias", scope and f"{scope}bias"),
    ]


def _norm(ours: str, keras: str, pretraining: str) -> list[TensorFlowName]:
    return [
        TensorFlowName(f"{ours}.weight", f"{keras}/gamma", f"{pretraining}/gamma"),
        TensorFlowName(f"{ours}.bias", f"{keras}/beta", f"{pretraining}/beta"),
    ]


_LAYER, _KERAS_LAYER = "encoder.albert_layer", "encoder/albert_layer"
_BERT = "bert/embeddings"
_ITERATED = "bert/encoder/transformer"
ENCODER: list[TensorFlowName] = [
    TensorFlowName(
        "embeddings.word_embeddings.weight",
        "embeddings/word_embeddings/weight",
        f"{_BERT}/word_embeddings",
    ),
    TensorFlowName(
        "embeddings.token_type_embeddings.weight",
        "embeddings/token_type_embeddings/embeddings",
        f"{_BERT}/token_type_embeddings",
    ),
    TensorFlowName(
        "embeddings.position_embeddings.weight",
        "embeddings/position_embeddings/embeddings",
        f"{_BERT}/position_embeddings",
    ),
    *_norm("embeddings.LayerNorm", "embeddings/LayerNorm", f"{_BERT}/LayerNorm"),
    *_linear(
        "encoder.embedding_hidden_mapping_in",
        "encoder/embedding_hidden_mapping_in",
        "bert/encoder/embedding_hidden_mapping_in",
    ),
    *(
        row
        for part in ("query", "key", "value")
        for row in _linear(
            f"{_LAYER}.attention.{part}",
            f"{_KERAS_LAYER}/attention/{part}",
            f"{_ITERATED}/attention_1/self/{part}",
        )
    ),
    *_linear(
        f"{_LAYER}.attention.dense",
        f"{_KERAS_LAYER}/attention/dense",
        f"{_ITERATED}/attention_1/output/dense",
    ),
    *_linear(f"{_LAYER}.act.dense", f"{_KERAS_LAYER}/act/dense", f"{_ITERATED}/halting/dense"),
    *_norm(f"{_LAYER}.LayerNorm", f"{_KERAS_LAYER}/LayerNorm", f"{_ITERATED}/LayerNorm"),
    *_linear(f"{_LAYER}.ffn", f"{_KERAS_LAYER}/ffn", f"{_ITERATED}/ffn_1/intermediate/dense"),
    *_linear(
        f"{_LAYER}.ffn_output",
        f"{_KERAS_LAYER}/ffn_output",
        f"{_ITERATED}/ffn_1/intermediate/output/dense",
    ),
    *_norm(
        f"{_LAYER}.full_layer_layer_norm",
        f"{_KERAS_LAYER}/full_layer_layer_norm",
        f"{_ITERATED}/LayerNorm_1",
    ),
    *_linear("pooler", "pooler", "bert/pooler/dense"),
]
HEADS: list[TensorFlowName] = [
    # Of the two biases of the Keras head this is the one it adds; the other is never used.
    TensorFlowName("predictions.bias", "predictions/decoder/bias", "cls/predictions/output_bias"),
    *_linear("predictions.dense", "predictions/dense", "cls/predictions/transform/dense"),
    *_norm("predictions.LayerNorm", "predictions/LayerNorm", "cls/predictions/transform/LayerNorm"),
    TensorFlowName(
        "sop_classifier.classifier.weight",
        "sop_classifier/classifier/kernel",
        "cls/seq_relationship/output_weights",
        True,
        rows=True,
    ),
    TensorFlowName(
        "sop_classifier.classifier.bias",
        "sop_classifier/classifier/bias",
        "cls/seq_relationship/output_bias",
    ),
    TensorFlowName("classifier.weight", "classifier/kernel", "output_weights", True, rows=True),
    TensorFlowName("classifier.bias", "classifier/bias", "output_bias"),
    *_linear("qa_outputs", "qa_outputs", ""),
]
TABLE = [*ENCODER, *HEADS]
# What files hold besides weights: the optimizer's state, counters, and Keras' unused bias.
_NO_WEIGHTS = re.compile(
    r"(^|/)(global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH|beta[12]_power|iter|"
    r"learning_rate|decay)(/|$)|"
    r"/(adam_[mv]|lamb_[mv]|Adam(_1)?|Momentum|LAMB(_1)?|\.OPTIMIZER_SLOT.*)$|"
    r"(^|/)predictions/bias$|^optimizer/"
)

_BY_KERAS = {row.keras: row for row in TABLE}
_BY_PRETRAINING = {row.pretraining: row for row in TABLE if row.pretraining}


def is_no_weight(variable: str) -> bool:
    return _NO_WEIGHTS.search(_plain(variable)) is not None


def find(variable: str) -> tuple[TensorFlowName, bool] | None:
    """The row of a variable of either kind, and whether it must be transposed; None if it has none.

    Args:
        variable: its full name. What stands before the known part is a scope (of a Keras model, or
            of a whole training set-up) and may be anything.
    """
    plain = _plain(variable)
    for known, of_pretraining in ((_BY_KERAS, False), (_BY_PRETRAINING, True)):
        parts = (_of_pretraining(plain) if of_pretraining else plain).split("/")
        for start in range(len(parts)):
            row = known.get("/".join(parts[start:]))
            if row is not None and _may_stand_behind(row, parts[:start]):
                return row, row.transposed and not (of_pretraining and row.rows)
    return None


def _may_stand_behind(row: TensorFlowName, scope: list[str]) -> bool:
    """A short name must not match the end of a longer one that is not known."""
    inner = {"encoder", "embeddings", "predictions", "sop_classifier", "transformer", "cls", "bert"}
    return not inner & set(scope)


def _plain(variable: str) -> str:
    """Without what TensorFlow adds to a name: the device's output, attributes, loops."""
    plain = variable.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    plain = re.sub(r":\d+$", "", plain)
    return re.sub(r"/while(_\d+)?(?=/)", "", plain)


def _of_pretraining(name: str) -> str:
    """One spelling of what ALBERT's, the TensorFlow 1 and the TensorFlow 2 code spell variously."""
    name = re.sub(r"/group_0/inner_group_0/", "/", name)
    name = name.replace("/layer_normalization", "/LayerNorm")
    # As its first versions called the halting unit.
    name = name.replace("/sigmoid_activation_for_pondering/", "/halting/")
    return f"bert/encoder/{name}" if name.startswith("transformer/") else name
