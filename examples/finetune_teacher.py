"""Fine-tunes a plain transformer on a GLUE task: the teacher of `distil_task.py`.

    python examples/finetune_teacher.py --task sst-2 --data GLUE_DIR --model MODEL --output TEACHER

MODEL is any folder or name that transformers' AutoModelForSequenceClassification loads, a
SentenceTransformer's too. TEACHER gets the model, its log (training_log.jsonl, with the dev set's
metrics) and a checkpoint; the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from finetune_glue import Batches
from torch import Tensor
from training import Schedule, autocast, make_optimizer, save_model, start_log, train
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from albert_act_fast.glue import TASKS, get_task, metrics, read_examples


@torch.no_grad()
def score(model, tokenizer, task, data, max_length: int) -> dict[str, float]:
    """The task's metrics on its dev set."""
    model.eval()
    examples = read_examples(task, data, "dev")
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].texts[0]))
    predictions: list = [None] * len(examples)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        texts = zip(*(examples[i].texts for i in chosen), strict=True)
        inputs = tokenizer(
            *map(list, texts),
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        )
        logits = model(**inputs).logits.float()
        found = logits.squeeze(-1) if task.is_regression else logits.argmax(-1)
        for i, prediction in zip(chosen, found.tolist(), strict=True):
            predictions[i] = prediction
    labels = [example.label for example in examples]
    found = metrics.score(task.metrics, predictions, labels)
    return {name: round(value, 2) for name, value in found.items()}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    task = get_task(args.task)
    metrics.libraries()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    examples = read_examples(task, args.data, "train", skip_malformed=args.skip_malformed)
    batches = Batches(examples, tokenizer, args)
    torch.manual_seed(args.seed)  # the new head's weights
    names = {} if task.is_regression else {"id2label": dict(enumerate(task.labels))}
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=task.num_labels,
        problem_type="regression" if task.is_regression else "single_label_classification",
        dtype=torch.float32,
        **names,
    )
    steps = round(args.epochs * batches.steps_an_epoch)
    start_log(args.output, args, examples=len(examples), parameters=model.num_parameters())

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches.at(step)
        with autocast(args.precision, model.device):
            output = model(**batch)
        if task.is_regression:
            return output.loss, {}
        right = output.logits.argmax(-1) == batch["labels"]
        return output.loss, {"accuracy": right.float().mean().item()}

    train(
        model,
        make_optimizer(model, args.weight_decay),
        args.output,
        schedule=Schedule(steps, args.lr, steps // 10),
        seed=args.seed,
        loss_at=loss_at,
        evaluate=lambda: score(model, tokenizer, task, args.data, args.max_length),
        log_every=args.log_every,
        evaluate_every=args.evaluate_every,
        checkpoint_every=args.checkpoint_every,
        description=f"teacher of {task.name}",
    )
    save_model(model, tokenizer, args.output, "float32")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", required=True, help=f"one of {', '.join(TASKS)}")
    add("--data", required=True, help="GLUE's folder, or hub (needs the datasets package)")
    add("--model", required=True, help="the model to fine-tune, a folder or a name on the Hub")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--epochs", type=float, default=3, help="passes over the training set (default 3)")
    add("--batch-size", type=int, default=32, help="examples a batch (default 32)")
    add("--max-length", type=int, default=128, help="tokens an input, at most (default 128)")
    add("--lr", type=float, default=5e-5, help="highest learning rate (default 5e-5)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--skip-malformed", action="store_true", help="leave malformed lines out (QQP has some)")
    add("--log-every", type=int, default=100, help="steps between log entries (default 100)")
    add("--evaluate-every", type=int, default=1000, help="steps between evaluations (1000)")
    add("--checkpoint-every", type=int, default=500, help="steps between checkpoints (500)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
