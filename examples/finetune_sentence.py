"""Fine-tunes a sentence encoder on pairs of sentences with a score (STS-B), with the ACT loss.

    python examples/finetune_sentence.py --data GLUE_DIR --model MODEL --output OUT

Both sentences of a pair are embedded apart, so that the result is still a sentence encoder: pairs
with a higher score are to have a higher cosine (the CoSENT loss). OUT gets the model, its log
(training_log.jsonl, with the dev set's figures) and a checkpoint; the same command resumes an
interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from distil_tools import cosines, evaluate_sts, save_pooling
from torch import Tensor
from torch.nn import functional as F
from training import (
    DepthMeter,
    Schedule,
    autocast,
    make_optimizer,
    pad,
    random_for,
    save_model,
    start_log,
    train,
)

from albert_act_fast import AlbertActModel
from albert_act_fast.glue import get_task, read_examples
from albert_act_fast.modeling.heads import act_loss
from albert_act_fast.shipped import pooling as read_pooling
from albert_act_fast.tokenizer import load_tokenizer


def cosent_loss(cosine: Tensor, score: Tensor, scale: float) -> Tensor:
    """log(1 + the sum over pairs i, j with score i < score j of exp(scale * (cos i - cos j)))."""
    difference = scale * (cosine[:, None] - cosine[None, :])
    wrong = difference[score[:, None] < score[None, :]]
    return torch.cat([wrong, wrong.new_zeros(1)]).logsumexp(0)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.model)
    pooling = read_pooling(args.model)
    examples = read_examples(get_task("sts-b"), args.data, "train")
    model = AlbertActModel.from_pretrained(
        args.model,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        implementation="torch",
        dtype=torch.float32,
        add_pooling_layer=False,
    )
    steps_an_epoch = -(-len(examples) // args.batch_size)
    steps = args.steps or round(args.epochs * steps_an_epoch)
    start_log(args.output, args, examples=len(examples), parameters=model.num_parameters())

    def pairs_of(step: int) -> list:
        epoch, place = divmod(step, steps_an_epoch)
        order = list(range(len(examples)))
        random_for(args.seed, "epoch", epoch).shuffle(order)
        return [examples[i] for i in order[place * args.batch_size : (place + 1) * args.batch_size]]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = pairs_of(step)
        texts = [pair.texts[side] for side in (0, 1) for pair in pairs]
        rows = tokenizer(texts, truncation=True, max_length=args.max_length)["input_ids"]
        ids = pad(rows, tokenizer.pad_token_id or 0)
        mask = pad([[1] * len(row) for row in rows], 0)
        with autocast(args.precision, model.device):
            output = model(input_ids=ids, attention_mask=mask)
        states = output.last_hidden_state.float()
        vectors = states.sum(1) / mask.sum(1, keepdim=True) if pooling == "mean" else states[:, 0]
        cosine = cosines(*F.normalize(vectors, dim=1).chunk(2))
        scores = torch.tensor([pair.label for pair in pairs])
        depths = DepthMeter()
        depths.add(output.n_updates, all=mask.bool())
        loss = cosent_loss(cosine, scores, args.scale)
        return loss + act_loss(output.ponder_cost, args.tau), depths.means()

    train(
        model,
        make_optimizer(model, args.weight_decay),
        args.output,
        schedule=Schedule(steps, args.lr, min(args.warmup, steps // 10), args.halting_lr_factor),
        seed=args.seed,
        loss_at=loss_at,
        evaluate=lambda: evaluate_sts(model, tokenizer, args.data, pooling),
        log_every=args.log_every,
        evaluate_every=args.evaluate_every,
        checkpoint_every=args.checkpoint_every,
        stop_after=args.stop_after,
        description="fine-tuning on STS-B",
    )
    model.config.implementation = "auto"
    save_model(model, tokenizer, args.output, args.save_dtype)
    save_pooling(args.output, model.config.hidden_size, pooling)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="GLUE's folder, or hub (needs the datasets package)")
    add("--model", required=True, help="the sentence encoder, a folder with its pooling")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--epochs", type=float, default=4, help="passes over the training set (default 4)")
    add("--steps", type=int, help="training steps, instead of --epochs")
    add("--batch-size", type=int, default=64, help="pairs a batch (default 64)")
    add("--max-length", type=int, default=128, help="tokens a sentence, at most (default 128)")
    add("--lr", type=float, default=2e-4, help="highest learning rate (default 2e-4)")
    add("--warmup", type=int, default=50, help="steps, at most a tenth of all (default 50)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--dropout", type=float, default=0.1, help="in the encoder (default 0.1)")
    add("--scale", type=float, default=20.0, help="of cosines in the loss (default 20)")
    add("--tau", type=float, default=1e-4, help="weight of the ponder cost (default 1e-4)")
    add("--halting-lr-factor", type=float, default=0.1, help="of the halting unit (default 0.1)")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--save-dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--log-every", type=int, default=20, help="steps between log entries (default 20)")
    add("--evaluate-every", type=int, default=90, help="steps between evaluations (default 90)")
    add("--checkpoint-every", type=int, default=90, help="steps between checkpoints (default 90)")
    add("--stop-after", type=int, help="stop at this step, early; resumable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
