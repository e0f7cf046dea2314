"""STS-B of a sentence encoder: the plain loop and the engine, in float32, bfloat16 and int8.

    python examples/evaluate_sentence.py --data GLUE_DIR --model sentence

    python examples/evaluate_sentence.py --data GLUE_DIR --model sentence --sweep

Prints the correlation of cosine and score on the dev set, the depths, and how many cosines (by
more than 0.001) and depths differ between plain loop and engine. Fails if any does in float32.
With --sweep: speed against quality, over the most iterations and the halting threshold.
"""

from __future__ import annotations

import argparse
import copy
import sys

import torch
from distil_tools import cosines, embed, pairs_of_dev, score

from albert_act_fast import AlbertActModel, shipped_model
from albert_act_fast.shipped import pooling as read_pooling
from albert_act_fast.shipped import shipped_models
from albert_act_fast.tokenizer import load_tokenizer

PRECISIONS = ("float32", "bfloat16", "int8", "bfloat16 int8")


def compare(model, tokenizer, data, pooling: str, precision: str) -> dict:
    """The figures of one precision; in int8 the plain loop runs without it, in the same dtype."""
    texts, wanted = pairs_of_dev(data)
    model = copy.deepcopy(model)
    if "bfloat16" in precision:
        model = model.to(torch.bfloat16)
    found = {}
    for name in ("reference", "engine"):
        model.quantize("int8" if "int8" in precision and name == "engine" else None)
        implementation = "reference" if name == "reference" else "auto"
        vectors, depths = embed(model, tokenizer, texts, pooling, implementation)
        found[name] = cosines(vectors[0::2], vectors[1::2]), torch.cat(depths)
    (ours, our_depths), (theirs, their_depths) = found["engine"], found["reference"]
    return {
        "reference": score(theirs, their_depths, wanted),
        "engine": score(ours, our_depths, wanted),
        "pairs": len(wanted),
        "differing_cosines": int(((ours - theirs).abs() > 1e-3).sum()),
        "differing_depths": float((our_depths != their_depths).float().mean()),
        "largest_difference": float((ours - theirs).abs().max()),
    }


def sweep(model, tokenizer, data, pooling: str):
    """Of each rule the figures, and token rows computed as a share of 12 a token."""
    texts, wanted = pairs_of_dev(data)
    limit, epsilon = model.config.num_hidden_layers, model.config.act_epsilon
    rules = [(n, epsilon) for n in (1, 2, 3, 4, 6, 8, limit)]
    rules += [(limit, e) for e in (0.05, 0.1, 0.2, 0.3, 0.5)]
    for rule in rules:
        model.config.num_hidden_layers, model.config.act_epsilon = rule
        vectors, depths = embed(model, tokenizer, texts, pooling)
        depths = torch.cat(depths)
        figures = score(cosines(vectors[0::2], vectors[1::2]), depths, wanted)
        model.config.num_hidden_layers, model.config.act_epsilon = limit, epsilon
        yield {"rule": rule, "rows": depths.mean().item() / limit, **figures}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="GLUE's folder, or hub")
    parser.add_argument("--model", default="sentence", help="a shipped model's name or a folder")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--sweep", action="store_true", help="speed against quality instead")
    args = parser.parse_args(argv)
    source = shipped_model(args.model) if args.model in shipped_models() else args.model
    tokenizer = load_tokenizer(source)
    model = AlbertActModel.from_pretrained(source, add_pooling_layer=False)
    if args.sweep:
        print("| most iterations | act_epsilon | mean depth | rows computed | Spearman |")
        print("|---|---|---|---|---|")
        for row in sweep(model, tokenizer, args.data, read_pooling(source)):
            iterations, epsilon = row["rule"]
            print(
                f"| {iterations} | {epsilon} | {row['sts_depth']} | {100 * row['rows']:.0f} % "
                f"| {row['sts_spearman']} |",
                flush=True,
            )
        return
    print(
        "| precision | Spearman / Pearson, plain loop | Spearman / Pearson, engine "
        "| mean depth, plain loop / engine | cosines that differ | depths that differ |"
    )
    print("|---|---|---|---|---|---|")
    exact = True
    for precision in args.precisions:
        found = compare(model, tokenizer, args.data, read_pooling(source), precision)
        loop, engine = found["reference"], found["engine"]
        print(
            f"| {precision} | {loop['sts_spearman']} / {loop['sts_pearson']} "
            f"| {engine['sts_spearman']} / {engine['sts_pearson']} "
            f"| {loop['sts_depth']} / {engine['sts_depth']} "
            f"| {found['differing_cosines']} of {found['pairs']} "
            f"(largest {found['largest_difference']:.1e}) "
            f"| {100 * found['differing_depths']:.2f} % |",
            flush=True,
        )
        exact &= precision != "float32" or not found["differing_cosines"]
    if not exact:
        sys.exit("engine and plain loop differ in float32")


if __name__ == "__main__":
    main()
