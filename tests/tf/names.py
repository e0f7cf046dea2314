"""Variables as the published TensorFlow code names them, written out, with values that tell them
apart."""

from __future__ import annotations

import numpy as np

LAYER = "encoder/albert_layer"
KERAS_LINEAR = {
    "encoder/embedding_hidden_mapping_in": (8, 16),
    f"{LAYER}/attention/query": (16, 16),
    f"{LAYER}/attention/key": (16, 16),
    f"{LAYER}/attention/value": (16, 16),
    f"{LAYER}/attention/dense": (16, 16),
    f"{LAYER}/act/dense": (16, 1),
    f"{LAYER}/ffn": (16, 24),
    f"{LAYER}/ffn_output": (24, 16),
    "pooler": (16, 16),
}
KERAS_NORMS = {
    "embeddings/LayerNorm": 8,
    f"{LAYER}/LayerNorm": 16,
    f"{LAYER}/full_layer_layer_norm": 16,
}
KERAS_TABLES = {
    "embeddings/word_embeddings/weight": (40, 8),
    "embeddings/token_type_embeddings/embeddings": (2, 8),
    "embeddings/position_embeddings/embeddings": (20, 8),
}
PRETRAINING = {
    "bert/embeddings/word_embeddings": (40, 8),
    "bert/embeddings/token_type_embeddings": (2, 8),
    "bert/embeddings/position_embeddings": (20, 8),
    "bert/embeddings/LayerNorm/gamma": (8,),
    "bert/embeddings/LayerNorm/beta": (8,),
    "bert/encoder/embedding_hidden_mapping_in/kernel": (8, 16),
    "bert/encoder/embedding_hidden_mapping_in/bias": (16,),
    "bert/encoder/transformer/attention_1/self/query/kernel": (16, 16),
    "bert/encoder/transformer/attention_1/self/query/bias": (16,),
    "bert/encoder/transformer/attention_1/self/key/kernel": (16, 16),
    "bert/encoder/transformer/attention_1/self/key/bias": (16,),
    "bert/encoder/transformer/attention_1/self/value/kernel": (16, 16),
    "bert/encoder/transformer/attention_1/self/value/bias": (16,),
    "bert/encoder/transformer/attention_1/output/dense/kernel": (16, 16),
    "bert/encoder/transformer/attention_1/output/dense/bias": (16,),
    "bert/encoder/transformer/halting/dense/kernel": (16, 1),
    "bert/encoder/transformer/halting/dense/bias": (1,),
    "bert/encoder/transformer/LayerNorm/gamma": (16,),
    "bert/encoder/transformer/LayerNorm/beta": (16,),
    "bert/encoder/transformer/LayerNorm_1/gamma": (16,),
    "bert/encoder/transformer/LayerNorm_1/beta": (16,),
    "bert/encoder/transformer/ffn_1/intermediate/dense/kernel": (16, 24),
    "bert/encoder/transformer/ffn_1/intermediate/dense/bias": (24,),
    "bert/encoder/transformer/ffn_1/intermediate/output/dense/kernel": (24, 16),
    "bert/encoder/transformer/ffn_1/intermediate/output/dense/bias": (16,),
    "bert/pooler/dense/kernel": (16, 16),
    "bert/pooler/dense/bias": (16,),
    "cls/predictions/transform/dense/kernel": (16, 8),
    "cls/predictions/transform/dense/bias": (8,),
    "cls/predictions/transform/LayerNorm/gamma": (8,),
    "cls/predictions/transform/LayerNorm/beta": (8,),
    "cls/predictions/output_bias": (40,),
    "cls/seq_relationship/output_weights": (2, 16),
    "cls/seq_relationship/output_bias": (2,),
}
# What stands beside the weights in a checkpoint of pre-training.
BESIDE = {
    "global_step": (),
    "bert/pooler/dense/kernel/adam_m": (16, 16),
    "bert/pooler/dense/kernel/lamb_v": (16, 16),
}


def keras_variables() -> dict[str, tuple]:
    shapes = dict(KERAS_TABLES)
    for name, shape in KERAS_LINEAR.items():
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    for name, width in KERAS_NORMS.items():
        shapes |= {f"{name}/gamma": (width,), f"{name}/beta": (width,)}
    return shapes


HEADS = {
    "predictions/bias": (40,),
    "predictions/decoder/bias": (40,),
    "predictions/dense/kernel": (16, 8),
    "predictions/dense/bias": (8,),
    "predictions/LayerNorm/gamma": (8,),
    "predictions/LayerNorm/beta": (8,),
    "sop_classifier/classifier/kernel": (16, 2),
    "sop_classifier/classifier/bias": (2,),
}


def values(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
