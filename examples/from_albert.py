"""From a plain ALBERT to ALBERT-ACT: what carrying its weights over is worth, on a toy.

    python examples/from_albert.py --text tests/fixtures/text --output OUT

Trains a small ALBERT of fixed depth to predict masked bytes, carries its weights over
(`AlbertActModel.from_albert`), and trains on with halting and the ponder cost; beside it an
ALBERT-ACT of random weights with the same number of steps. Prints the losses of all on held-out
text. For a real ALBERT: `AlbertActModel.from_albert("albert/albert-base-v2")`, and `pretrain.py`'s
advice on halting.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AlbertConfig, AlbertForMaskedLM

from albert_act_fast import AlbertActForMaskedLM, AlbertActModel

# Bytes behind padding, [CLS], [SEP] and [MASK].
MASK, FIRST_BYTE = 3, 4
VOCABULARY = FIRST_BYTE + 256
SIZES = {
    "vocab_size": VOCABULARY,
    "embedding_size": 32,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "max_position_embeddings": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def read(folder: Path) -> torch.Tensor:
    """All *.txt files of the folder as one row of ids."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{folder}: no *.txt files in it.")
    return torch.tensor([FIRST_BYTE + b for file in files for b in file.read_bytes()])


def batch_of(text: torch.Tensor, size: int, generator: torch.Generator) -> dict:
    """Windows of the text with 15 % of their bytes masked; labels are -100 elsewhere."""
    length = SIZES["max_position_embeddings"]
    starts = torch.randint(len(text) - length, (size, 1), generator=generator)
    ids = text[starts + torch.arange(length)]
    chosen = torch.rand(ids.shape, generator=generator) < 0.15
    return {"input_ids": ids.masked_fill(chosen, MASK), "labels": ids.masked_fill(~chosen, -100)}


def train(model, text, steps: int, rate: float, what: str, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for _ in tqdm(range(steps), desc=what, leave=False):
        loss = model(**batch_of(text, 32, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


@torch.no_grad()
def held_out(model, text) -> tuple[float, float | None]:
    """Loss of the task alone, and mean iterations of a model that has some."""
    batch = batch_of(text, 128, torch.Generator().manual_seed(99))
    labels = batch.pop("labels")
    out = model(**batch)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    depth = getattr(out, "n_updates", None)
    return loss.item(), None if depth is None else depth.mean().item()


def carried_over(albert: AlbertForMaskedLM, halting_bias: float, tau: float):
    bare = AlbertActModel.from_albert(albert, halting_bias=halting_bias, act_tau=tau)
    model = AlbertActForMaskedLM(bare.config)
    model.albert = bare
    model.predictions.load_state_dict(albert.predictions.state_dict())
    model.tie_weights()
    return model.eval()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, required=True, help="folder of *.txt files")
    add("--output", type=Path, help="save the trained model there")
    add("--albert-steps", type=int, default=1500, help="of the plain ALBERT (1500)")
    add("--steps", type=int, default=500, help="of ALBERT-ACT (500)")
    add("--rate", type=float, default=1e-3, help="learning rate (1e-3)")
    add("--halting-bias", type=float, default=-1.5, help="of the new unit (-1.5: 6 iterations)")
    add("--tau", type=float, default=1e-4, help="weight of the ponder cost (1e-4)")
    args = parser.parse_args(argv)
    text = read(args.text)
    cut = int(0.9 * len(text))
    seen, unseen = text[:cut], text[cut:]
    rows: list[tuple[str, float, float | None]] = []
    torch.manual_seed(0)
    albert = AlbertForMaskedLM(AlbertConfig(**SIZES))
    train(albert, seen, args.albert_steps, args.rate, "ALBERT")
    rows.append((f"ALBERT, {args.albert_steps} steps", *held_out(albert, unseen)))
    model = carried_over(albert, args.halting_bias, args.tau)
    rows.append(("ALBERT-ACT, carried over, not trained", *held_out(model, unseen)))
    train(model, seen, args.steps, args.rate, "carried over", seed=1)
    rows.append((f"the same, {args.steps} steps", *held_out(model, unseen)))
    torch.manual_seed(0)
    fresh = AlbertActForMaskedLM(model.config)
    torch.nn.init.constant_(fresh.albert.encoder.albert_layer.act.dense.bias, args.halting_bias)
    train(fresh, seen, args.steps, args.rate, "random", seed=1)
    rows.append((f"ALBERT-ACT of random weights, {args.steps} steps", *held_out(fresh, unseen)))
    print("| model | loss on held-out text | mean iterations |")
    print("|---|---|---|")
    for name, loss, depth in rows:
        iterations = f"{SIZES['num_hidden_layers']} (fixed)" if depth is None else f"{depth:.2f}"
        print(f"| {name} | {loss:.3f} | {iterations} |")
    if args.output:
        model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
