"""Pre-trains a small ALBERT-ACT: masked tokens, sentence order, and the ACT loss.

    python examples/pretrain.py --text TEXT_DIR --output OUT

TEXT_DIR holds *.txt files, one paragraph a line. OUT gets the model, its log
(training_log.jsonl) and a checkpoint; the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import re
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from training import (
    DepthMeter,
    Schedule,
    autocast,
    compile_layer,
    make_optimizer,
    pad,
    random_for,
    save_model,
    start_log,
    train,
)

from albert_act_fast import AlbertActConfig, AlbertActForPreTraining
from albert_act_fast.modeling.heads import act_loss
from albert_act_fast.tokenizer import load_tokenizer

_SENTENCE_END = re.compile(r"(?<=[.!?])(?:[\"')\]]*)\s+")
HELD_OUT_SEED = "held out"


class Batch(NamedTuple):
    """[B, S] each, sentence_order [B]."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    sentence_order: Tensor


def read_sentences(folder: Path, tokenizer) -> list[list[list[int]]]:
    """Of each file its sentences, as token ids, in the text's order."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{folder}: no *.txt file in it.")
    documents = []
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        sentences = [s for line in lines for s in _SENTENCE_END.split(line.strip()) if s]
        if sentences:
            ids = tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"]
            documents.append([sentence for sentence in ids if sentence])
    return documents


def split_held_out(documents: list, share: float) -> tuple[list, list]:
    """The last share of every document is held out."""
    cut = [round(len(document) * (1 - share)) for document in documents]
    return (
        [d[:n] for d, n in zip(documents, cut, strict=True)],
        [d[n:] for d, n in zip(documents, cut, strict=True)],
    )


def make_pairs(documents: list, max_length: int, short_share: float, random) -> list:
    """Consecutive text in two segments each, cut between sentences where there are several.

    A share of the pairs is short, so that the model meets short texts too.
    """
    room = max_length - 3
    pairs = []
    for document in documents:
        chunk, length = [], 0
        target = room
        for sentence in document:
            chunk.append(sentence)
            length += len(sentence)
            if length < target:
                continue
            if len(chunk) > 1:
                cut = random.randrange(1, len(chunk))
                first, second = (list(chain(*part)) for part in (chunk[:cut], chunk[cut:]))
            else:
                half = len(sentence) // 2
                first, second = sentence[:half], sentence[half:]
            while len(first) + len(second) > room:
                # What touches the border between the two stays.
                if len(first) > len(second):
                    first = first[1:]
                else:
                    second = second[:-1]
            if first and second:
                pairs.append((first, second))
            chunk, length = [], 0
            target = random.randint(8, room) if random.random() < short_share else room
    return pairs


class Batches:
    """The batch of every step, a function of (seed, step): pairs, their order and masks."""

    def __init__(self, documents, tokenizer, args, seed: int | str):
        self.documents, self.tokenizer, self.args, self.seed = documents, tokenizer, args, seed
        self.first_step, self.epoch = 0, 0
        self._shuffle()

    def _shuffle(self) -> None:
        """Pairs of similar length share a batch, batches come in random order."""
        args, random = self.args, random_for(self.seed, "epoch", self.epoch)
        pairs = make_pairs(self.documents, args.max_length, args.short_share, random)
        if not pairs:
            raise ValueError("The text is too short for a single pair of segments.")
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]) + random.random())
        self.batches, batch = [], []
        for pair in pairs:
            length = len(pair[0]) + len(pair[1]) + 3
            if batch and (len(batch) + 1) * length > args.batch_tokens:
                self.batches.append(batch)
                batch = []
            batch.append(pair)
        self.batches.append(batch)
        random.shuffle(self.batches)

    def at(self, step: int) -> Batch:
        while step >= self.first_step + len(self.batches):
            self.first_step += len(self.batches)
            self.epoch += 1
            self._shuffle()
        return self.collate(
            self.batches[step - self.first_step], random_for(self.seed, "masks", step)
        )

    def collate(self, pairs, random) -> Batch:
        tokenizer = self.tokenizer
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        rows, types, labels, order = [], [], [], []
        for first, second in pairs:
            swapped = random.random() < 0.5
            if swapped:
                first, second = second, first
            tokens = [cls, *first, sep, *second, sep]
            types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
            places = [i for i, t in enumerate(tokens) if t not in (cls, sep)]
            chosen = random.sample(places, max(1, round(len(places) * self.args.mask_share)))
            label = [-100] * len(tokens)
            for i in chosen:
                label[i] = tokens[i]
                luck = random.random()
                if luck < 0.8:
                    tokens[i] = tokenizer.mask_token_id
                elif luck < 0.9:
                    tokens[i] = random.randrange(len(tokenizer))
            rows.append(tokens)
            labels.append(label)
            order.append(int(swapped))
        return Batch(
            pad(rows, tokenizer.pad_token_id),
            pad([[1] * len(row) for row in rows], 0),
            pad(types, 0),
            pad(labels, -100),
            torch.tensor(order),
        )


def token_groups(batch: Batch, tokenizer) -> dict[str, Tensor]:
    ids, token = batch.input_ids, batch.attention_mask.bool()
    cls, sep = ids == tokenizer.cls_token_id, ids == tokenizer.sep_token_id
    mask = ids == tokenizer.mask_token_id
    return {
        "all": token,
        "mask": mask,
        "unmasked": token & ~mask & ~cls & ~sep,
        "cls": cls,
        "sep": sep,
    }


def losses(model: AlbertActForPreTraining, batch: Batch):
    """The losses of both tasks and what they come from.

    The vocabulary head runs on the chosen tokens only: on all of them it would cost more than the
    encoder.
    """
    encoded = model.albert(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
        implementation="reference",
    )
    chosen = batch.labels != -100
    words = model.predictions(encoded.last_hidden_state[chosen]).float()
    order = model.sop_classifier(encoded.pooler_output).float()
    return (
        F.cross_entropy(words, batch.labels[chosen]),
        F.cross_entropy(order, batch.sentence_order),
        (words.argmax(-1) == batch.labels[chosen]).float().mean().item(),
        (order.argmax(-1) == batch.sentence_order).float().mean().item(),
        encoded,
    )


@torch.no_grad()
def evaluate(model, batches: Batches, tokenizer, args) -> dict[str, float]:
    """Over the whole held-out text, fp32."""
    model.eval()
    depths, sums, count = DepthMeter(), torch.zeros(4), 0
    for index, pairs in enumerate(batches.batches):
        batch = batches.collate(pairs, random_for(HELD_OUT_SEED, index))
        mlm, sop, mlm_accuracy, sop_accuracy, encoded = losses(model, batch)
        depths.add(encoded.n_updates, **token_groups(batch, tokenizer))
        sums += len(pairs) * torch.tensor([mlm.item(), sop.item(), mlm_accuracy, sop_accuracy])
        count += len(pairs)
    names = ("mlm_loss", "sop_loss", "mlm_accuracy", "sop_accuracy")
    figures = {n: round(v, 4) for n, v in zip(names, (sums / count).tolist(), strict=True)}
    return figures | depths.means()


def make_model(args, vocab_size: int) -> AlbertActForPreTraining:
    torch.manual_seed(args.seed)
    if args.model:
        model = AlbertActForPreTraining.from_pretrained(
            args.model, act_tau=args.tau, dtype=torch.float32
        )
    else:
        model = AlbertActForPreTraining(
            AlbertActConfig(
                vocab_size=vocab_size,
                embedding_size=args.embedding_size,
                hidden_size=args.hidden_size,
                num_attention_heads=args.heads,
                intermediate_size=args.intermediate_size,
                num_hidden_layers=args.iterations,
                hidden_act=args.hidden_act,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                act_tau=args.tau,
            )
        )
    halting = model.albert.encoder.albert_layer.act.dense
    with torch.no_grad():
        if args.halting_bias is not None:
            halting.bias.fill_(args.halting_bias)
        if args.halting_spread is not None:
            halting.weight.normal_(std=args.halting_spread)
    return model


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer()
    documents, held_out = split_held_out(read_sentences(args.text, tokenizer), args.held_out)
    batches = Batches(documents, tokenizer, args, args.seed)
    held_out_batches = Batches(held_out, tokenizer, args, HELD_OUT_SEED)
    model = make_model(args, len(tokenizer))
    if args.compile:
        compile_layer(model)
    start_log(
        args.output,
        args,
        tokens=sum(len(sentence) for document in documents for sentence in document),
        steps_an_epoch=len(batches.batches),
        parameters=model.num_parameters(),
    )

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches.at(step)
        with autocast(args.precision, model.device):
            mlm, sop, mlm_accuracy, sop_accuracy, encoded = losses(model, batch)
        # tau grows from the step on from which halting is learnt.
        grown = (step - args.halting_from) / args.tau_warmup if args.tau_warmup else 1.0
        tau = args.tau * min(1.0, max(0.0, grown))
        depths = DepthMeter()
        depths.add(encoded.n_updates, **token_groups(batch, tokenizer))
        return mlm + sop + act_loss(encoded.ponder_cost, tau), {
            "mlm_loss": mlm.item(),
            "mlm_accuracy": mlm_accuracy,
            "sop_accuracy": sop_accuracy,
            **depths.means(),
        }

    train(
        model,
        make_optimizer(model, args.weight_decay),
        args.output,
        schedule=Schedule(
            args.steps, args.lr, args.warmup, args.halting_lr_factor, args.halting_from
        ),
        seed=args.seed,
        loss_at=loss_at,
        evaluate=lambda: evaluate(model, held_out_batches, tokenizer, args),
        log_every=args.log_every,
        evaluate_every=args.evaluate_every,
        checkpoint_every=args.checkpoint_every,
        stop_after=args.stop_after,
        description="pre-training",
    )
    save_model(model, tokenizer, args.output, args.save_dtype)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, required=True, help="folder of *.txt files, one paragraph a line")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--steps", type=int, default=3000, help="training steps (default 3000)")
    add("--batch-tokens", type=int, default=2048, help="tokens a batch (default 2048)")
    add("--max-length", type=int, default=64, help="longest input (default 64)")
    add("--short-share", type=float, default=0.3, help="share of shorter inputs (default 0.3)")
    add("--mask-share", type=float, default=0.15, help="share of masked tokens (default 0.15)")
    add("--held-out", type=float, default=0.02, help="share of text held out (default 0.02)")
    add("--lr", type=float, default=2e-3, help="highest learning rate (default 2e-3)")
    add("--warmup", type=int, default=200, help="steps of warm-up (default 200)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--tau", type=float, default=5e-4, help="weight of the ponder cost (default 5e-4)")
    add("--tau-warmup", type=int, default=0, help="steps over which tau grows (default 0)")
    add("--model", help="go on from this model (then sizes are its own) instead of from scratch")
    add("--halting-bias", type=float, help="bias the halting unit starts from, such as -1.5")
    add(
        "--halting-spread", type=float, help="deviation of the weights the halting unit starts from"
    )
    add("--halting-from", type=int, default=0, help="step from which halting is learnt (default 0)")
    add("--halting-lr-factor", type=float, default=1.0, help="of the halting unit (default 1)")
    add("--iterations", type=int, default=12, help="most iterations a token (default 12)")
    add("--hidden-size", type=int, default=192, help="default 192")
    add("--embedding-size", type=int, default=64, help="default 64")
    add("--intermediate-size", type=int, default=768, help="default 768")
    add("--heads", type=int, default=3, help="attention heads (default 3)")
    add("--hidden-act", default="gelu", help="activation (default gelu)")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--save-dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--compile", action="store_true", help="compile the layer (needs a C++ compiler; faster)")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--log-every", type=int, default=50, help="steps between log entries (default 50)")
    add("--evaluate-every", type=int, default=500, help="steps between evaluations (default 500)")
    add("--checkpoint-every", type=int, default=200, help="default 200 steps")
    add("--stop-after", type=int, help="stop at this step, early; resumable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
