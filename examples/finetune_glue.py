"""Fine-tunes an ALBERT-ACT on a GLUE task, with the ACT loss.

    python examples/finetune_glue.py --task sst-2 --data GLUE_DIR --model MODEL --output OUT

GLUE_DIR is GLUE's own folder (SST-2/train.tsv, ...). OUT gets the model, its log
(training_log.jsonl, with the dev set's metrics) and a checkpoint; the same command resumes an
interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
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

from albert_act_fast import AlbertActForSequenceClassification
from albert_act_fast.glue import TASKS, Task, evaluate, get_task, metrics, read_examples
from albert_act_fast.modeling.heads import act_loss
from albert_act_fast.tokenizer import load_tokenizer

FIGURES = ("mean_depth", "rows_computed", "rows_dense")


class Batches:
    """The batch of every step, a function of (seed, step)."""

    def __init__(self, examples, tokenizer, args):
        texts = zip(*(example.texts for example in examples), strict=True)
        self.encoded = tokenizer(
            *map(list, texts),
            truncation=True,
            max_length=args.max_length,
            return_token_type_ids=True,
        )
        self.labels = [example.label for example in examples]
        self.tokenizer, self.args = tokenizer, args
        self.steps_an_epoch = -(-len(examples) // args.batch_size)
        self.epoch = None

    def _shuffle(self, epoch: int) -> None:
        """Inputs of similar length share a batch, batches come in random order."""
        random = random_for(self.args.seed, "epoch", epoch)
        lengths = list(map(len, self.encoded["input_ids"]))
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], random.random()))
        size = self.args.batch_size
        self.batches = [order[i : i + size] for i in range(0, len(order), size)]
        random.shuffle(self.batches)
        self.epoch = epoch

    def at(self, step: int) -> dict[str, Tensor]:
        epoch, place = divmod(step, self.steps_an_epoch)
        if epoch != self.epoch:
            self._shuffle(epoch)
        chosen = self.batches[place]
        padding = {"input_ids": self.tokenizer.pad_token_id}
        batch = {
            name: pad([self.encoded[name][i] for i in chosen], padding.get(name, 0))
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        return batch | {"labels": torch.tensor([self.labels[i] for i in chosen])}


def make_model(args, task: Task) -> AlbertActForSequenceClassification:
    torch.manual_seed(args.seed)  # the new head's weights
    names = {} if task.is_regression else {"id2label": dict(enumerate(task.labels))}
    if names:
        names["label2id"] = {label: i for i, label in names["id2label"].items()}
    return AlbertActForSequenceClassification.from_pretrained(
        args.model,
        num_labels=task.num_labels,
        problem_type="regression" if task.is_regression else "single_label_classification",
        act_tau=args.tau,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        classifier_dropout_prob=args.classifier_dropout,
        dtype=torch.float32,
        **names,
    )


def dev_figures(model, tokenizer, task: Task, args) -> dict[str, float]:
    """The task's metrics on its dev set, by the plain loop, and the depths there."""
    result = evaluate(
        model,
        tokenizer,
        task,
        args.data,
        "reference",
        max_length=args.max_length,
        skip_malformed=args.skip_malformed,
    )
    depths = torch.cat(result.n_updates)
    return {
        **{name: round(value, 2) for name, value in result.metrics.items()},
        "depth_all": round(result.mean_depth, 3),
        "depth_cls": round(torch.stack([n[0] for n in result.n_updates]).mean().item(), 3),
        "depth_deviation": round(depths.std().item(), 3),
    }


def steered(tau: float, n_updates: Tensor, depth: float | None) -> float:
    """tau for a batch of these depths: far more where their mean is above `depth`, far less below.
    Of the batch alone, so that a resumed run needs no memory of it."""
    return tau if depth is None else tau * (n_updates.float().mean().item() / depth) ** 8


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    task = get_task(args.task)
    tokenizer = load_tokenizer(args.model)
    # What the first evaluation needs: better missed now than after a thousand steps.
    metrics.libraries()
    read_examples(task, args.data, "dev", skip_malformed=args.skip_malformed)
    examples = read_examples(task, args.data, "train", skip_malformed=args.skip_malformed)
    batches = Batches(examples, tokenizer, args)
    model = make_model(args, task)
    if args.compile:
        compile_layer(model)
    steps = args.steps or round(args.epochs * batches.steps_an_epoch)
    start_log(args.output, args, examples=len(examples), parameters=model.num_parameters())

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches.at(step)
        with autocast(args.precision, model.device):
            output = model(**batch, act_tau=0.0, implementation=args.implementation)
        depths = DepthMeter()
        token = batch["attention_mask"].bool()
        tau = steered(args.tau, output.n_updates[token], args.depth)
        cls = batch["input_ids"] == tokenizer.cls_token_id
        depths.add(output.n_updates, all=token, cls=cls)
        figures = depths.means() | {"tau_per_mille": 1000 * tau}
        if not task.is_regression:
            right = output.logits.argmax(-1) == batch["labels"]
            figures["accuracy"] = right.float().mean().item()
        return output.loss + act_loss(output.ponder_cost, tau), figures

    train(
        model,
        make_optimizer(model, args.weight_decay),
        args.output,
        schedule=Schedule(
            steps,
            args.lr,
            min(args.warmup, steps // 10),
            args.halting_lr_factor,
            embedding_factor=args.embedding_lr_factor,
        ),
        seed=args.seed,
        loss_at=loss_at,
        evaluate=lambda: dev_figures(model, tokenizer, task, args),
        log_every=args.log_every,
        evaluate_every=args.evaluate_every,
        checkpoint_every=args.checkpoint_every,
        stop_after=args.stop_after,
        description=f"fine-tuning on {task.name}",
    )
    save_model(model, tokenizer, args.output, args.save_dtype)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", required=True, help=f"one of {', '.join(TASKS)}")
    add("--data", required=True, help="GLUE's folder, or hub (needs the datasets package)")
    add("--model", required=True, help="the pre-trained model, a folder or a name on the Hub")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--epochs", type=float, default=4, help="passes over the training set (default 4)")
    add("--steps", type=int, help="training steps, instead of --epochs")
    add("--batch-size", type=int, default=32, help="examples a batch (default 32)")
    add("--max-length", type=int, default=128, help="tokens an input, at most (default 128)")
    add("--lr", type=float, default=3e-4, help="highest learning rate (default 3e-4)")
    add("--warmup", type=int, default=200, help="steps, at most a tenth of all (default 200)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--dropout", type=float, default=0.1, help="in the encoder (default 0.1)")
    add("--classifier-dropout", type=float, default=0.1, help="default 0.1")
    add("--tau", type=float, default=5e-4, help="weight of the ponder cost (default 5e-4)")
    add("--depth", type=float, help="weigh tau so that depths do not grow beyond this mean")
    add("--halting-lr-factor", type=float, default=1.0, help="of the halting unit (default 1)")
    add("--embedding-lr-factor", type=float, default=1.0, help="of the embeddings (default 1)")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--save-dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add(
        "--implementation",
        choices=("reference", "torch"),
        default="reference",
        help="torch computes running tokens only; reference all, and can be compiled (default)",
    )
    add("--compile", action="store_true", help="compile the layer (needs a C++ compiler; faster)")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--skip-malformed", action="store_true", help="leave malformed lines out (QQP has some)")
    add("--log-every", type=int, default=100, help="steps between log entries (default 100)")
    add("--evaluate-every", type=int, default=1000, help="steps between evaluations (1000)")
    add("--checkpoint-every", type=int, default=500, help="steps between checkpoints (500)")
    add("--stop-after", type=int, help="stop at this step, early; resumable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
