"""Distils a fine-tuned model into an ALBERT-ACT classifier of a GLUE task, with the ACT loss.

    python examples/distil_task.py --task sst-2 --data GLUE_DIR --teacher TEACHER --model MODEL \
        --text TEXT_DIR --output OUT

TEACHER is what `finetune_teacher.py` wrote, MODEL the ALBERT-ACT to begin with, of the same
tokenizer and width (`distil.py`'s, say). Every step the teacher reads a batch and the student
learns its logits and its token states. A label is used by neither: what the teacher says of texts
that nobody has labelled is worth as much, so that training texts are altered at random (words
masked, replaced, dropped, swapped, two texts joined) and texts from --text stand beside them.

OUT gets the model, its log (training_log.jsonl, with the dev set's metrics) and a checkpoint; the
same command resumes an interrupted run. Of the task's dev set neither sentence nor label is used,
but for the figures in the log.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from distil import Batches
from distil_data import read_texts
from distil_student import SteeredTau
from finetune_glue import dev_figures, make_model
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    DepthMeter,
    Schedule,
    autocast,
    make_optimizer,
    random_for,
    save_model,
    start_log,
    train,
)
from transformers import AutoModelForSequenceClassification

from albert_act_fast.glue import TASKS, get_task, metrics, read_examples
from albert_act_fast.modeling.heads import act_loss
from albert_act_fast.tokenizer import load_tokenizer

JOINTS = (" ", " , ", " and ", " but ", " ; ", " , which ", " because ")


class Alterations:
    """Random variants of a text; which depends on the random source given alone."""

    def __init__(self, texts: list[str], mask_token: str, rate: float):
        self.words = [word for text in texts for word in text.split()]
        self.texts, self.mask_token, self.rate = texts, mask_token, rate
        self.kinds = (self._mask, self._replace, self._drop, self._swap, self._join)

    def __call__(self, text: str, random) -> str:
        words = text.split()
        return " ".join(random.choice(self.kinds)(words, random)) or text

    def _some(self, words: list[str], random) -> set[int]:
        """One place at least, else each with the probability `rate`."""
        chosen = {i for i in range(len(words)) if random.random() < self.rate}
        return chosen or {random.randrange(len(words))}

    def _mask(self, words, random) -> list[str]:
        chosen = self._some(words, random)
        return [self.mask_token if i in chosen else word for i, word in enumerate(words)]

    def _replace(self, words, random) -> list[str]:
        chosen = self._some(words, random)
        return [random.choice(self.words) if i in chosen else word for i, word in enumerate(words)]

    def _drop(self, words, random) -> list[str]:
        chosen = self._some(words, random)
        return [word for i, word in enumerate(words) if i not in chosen]

    def _swap(self, words, random) -> list[str]:
        words = list(words)
        for i in sorted(self._some(words, random)):
            if i + 1 < len(words):
                words[i], words[i + 1] = words[i + 1], words[i]
        return words

    def _join(self, words, random) -> list[str]:
        other = random.choice(self.texts).split()
        pair = [words, other] if random.random() < 0.5 else [other, words]
        return [*pair[0], *random.choice(JOINTS).split(), *pair[1]]


class Texts:
    """The texts of every step, a function of (seed, step): the task's, or others."""

    def __init__(self, args, task, tokenizer):
        examples = read_examples(task, args.data, "train", skip_malformed=args.skip_malformed)
        ours = list(dict.fromkeys(example.texts[0].strip() for example in examples))
        kept_out = {e.texts[0].strip().lower() for e in read_examples(task, args.data, "dev")}
        others, self.counts = [], {task.name: len(ours)}
        if args.text or args.glue:
            others, counts = read_texts(args)
            others = [text for text in others if text.lower() not in kept_out]
            counts.pop(f"{task.name} dev", None)  # all of them are among those kept out
            self.counts |= counts
        self.sources = {"task": ours, "other": others}
        self.alter = Alterations(ours, tokenizer.mask_token, args.alter_rate)
        self.args = args
        self.batches = {
            name: self._batches(name, texts, tokenizer)
            for name, texts in self.sources.items()
            if texts
        }

    def _batches(self, name: str, texts: list[str], tokenizer) -> Batches:
        rows = tokenizer(texts, truncation=True, max_length=self.args.max_length)["input_ids"]
        lengths = np.array([len(row) for row in rows])
        seed = f"{self.args.seed}/{name}"
        return Batches(lengths, range(len(texts)), self.args.batch_tokens, seed)

    def at(self, step: int) -> list[str]:
        random = random_for(self.args.seed, "alter", step)
        name = "other" if random.random() < self.args.other_share else "task"
        name = name if name in self.batches else "task"
        texts = [self.sources[name][i] for i in self.batches[name].at(step)]
        return [
            self.alter(text, random) if random.random() < self.args.altered else text
            for text in texts
        ]


class Student(nn.Module):
    """The classifier and its tau."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.tau = SteeredTau()

    @torch.no_grad()
    def add_positions(self, norm: float) -> None:
        """Adds sines and cosines of that norm to the position embeddings: a model that was
        distilled for what texts say has hardly any, and so no idea of word order."""
        table = self.model.albert.embeddings.position_embeddings.weight
        count, width = table.shape
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        angles = torch.arange(count).unsqueeze(1) * rates
        waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
        table.add_(waves * (norm / waves.norm(dim=1, keepdim=True)))


def distillation_losses(
    logits: Tensor, states: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Divergence of logits [B, n] softened by the temperature, and the squared error of token
    states [rows, H] as a share of the teacher's variance.

    Hinton et al. 2015: times the squared temperature, so that gradients keep their size.
    """
    divergence = F.kl_div(
        (logits / temperature).log_softmax(1),
        (teacher_logits / temperature).log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    error = (states - target).square().sum() / (target - target.mean(0)).square().sum()
    return temperature**2 * divergence, error


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    task = get_task(args.task)
    if task.is_regression or len(task.texts) > 1:
        raise ValueError(f"--task: got {task.name}, expected a task of single texts and classes.")
    metrics.libraries()
    tokenizer = load_tokenizer(args.model)
    texts = Texts(args, task, tokenizer)
    teacher = AutoModelForSequenceClassification.from_pretrained(args.teacher).eval()
    student = Student(make_model(args, task))
    model = student.model
    if teacher.config.hidden_size != model.config.hidden_size:
        raise ValueError(
            f"--teacher: {teacher.config.hidden_size} wide, the student {model.config.hidden_size}."
        )
    if args.position_norm and not (args.output / "checkpoint.pt").exists():
        student.add_positions(args.position_norm)
    start_log(args.output, args, texts=texts.counts, parameters=model.num_parameters())

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        inputs = tokenizer(
            texts.at(step),
            truncation=True,
            max_length=args.max_length,
            padding=True,
            return_tensors="pt",
        )
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        token = inputs["attention_mask"].bool()
        with autocast(args.precision, model.device):
            with torch.no_grad():
                said = teacher(**inputs, output_hidden_states=True)
            encoded = model.albert(**inputs, implementation="torch")
            logits = model.classifier(model.dropout(encoded.pooler_output)).float()
        answer, state = distillation_losses(
            logits,
            encoded.last_hidden_state[token].float(),
            said.logits.float(),
            said.hidden_states[-1][token].float(),
            args.temperature,
        )
        found = encoded.n_updates[token].float()
        depths = DepthMeter()
        depths.add(encoded.n_updates, all=token, cls=inputs["input_ids"] == tokenizer.cls_token_id)
        tau = student.tau.steer(found.mean().item(), args.depth, args.tau, args.tau_gain)
        agreed = (logits.argmax(1) == said.logits.argmax(1)).float().mean().item()
        figures = {
            "answer": answer.item(),
            "state": state.item(),
            "agreed": agreed,
            "tau_per_mille": 1000 * tau,
            "depth_deviation": found.std().item(),
        }
        loss = answer + args.state_weight * state + act_loss(encoded.ponder_cost, tau)
        return loss, figures | depths.means()

    train(
        student,
        make_optimizer(student, args.weight_decay),
        args.output,
        schedule=Schedule(
            args.steps,
            args.lr,
            min(args.warmup, args.steps // 10),
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
        description=f"distilling {task.name}",
    )
    save_model(model, tokenizer, args.output, args.save_dtype)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [t.name for t in TASKS.values() if len(t.texts) == 1 and not t.is_regression]
    add("--task", required=True, help=f"one of {', '.join(names)}")
    add("--data", required=True, help="GLUE's folder, or hub (needs the datasets package)")
    add("--teacher", type=Path, required=True, help="folder that finetune_teacher.py wrote")
    add("--model", required=True, help="the ALBERT-ACT to begin with, a folder")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--text", type=Path, nargs="*", default=[], help="other texts: folders of *.txt, or files")
    add("--glue", help="GLUE's folder; the sentences of its other tasks are other texts")
    add("--texts-a-source", type=int, default=100_000, help="at most, of a file or GLUE split")
    add("--passages", type=float, default=0.0, help="passages a paragraph (default 0)")
    add("--other-share", type=float, default=0.25, help="batches of other texts (default 0.25)")
    add("--altered", type=float, default=0.5, help="share of texts altered (default 0.5)")
    add("--alter-rate", type=float, default=0.1, help="share of their words (default 0.1)")
    add("--max-length", type=int, default=128, help="tokens an input, at most (default 128)")
    add("--steps", type=int, default=3000, help="training steps (default 3000)")
    add("--batch-tokens", type=int, default=1536, help="tokens a batch (default 1536)")
    add("--lr", type=float, default=1e-3, help="highest learning rate (default 1e-3)")
    add("--warmup", type=int, default=200, help="steps, at most a tenth of all (default 200)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--dropout", type=float, default=0.0, help="in the encoder (default 0)")
    add("--classifier-dropout", type=float, default=0.0, help="default 0")
    add("--temperature", type=float, default=2.0, help="of the logits (default 2)")
    add("--state-weight", type=float, default=0.5, help="of the token states' loss (default 0.5)")
    add("--position-norm", type=float, default=0.0, help="waves added to the positions (0: none)")
    add("--depth", type=float, default=4.0, help="mean depth tau is steered to (default 4)")
    add("--tau", type=float, default=1e-5, help="tau to start from (default 1e-5)")
    add("--tau-gain", type=float, default=2e-6, help="change of tau a step and iteration too many")
    add("--halting-lr-factor", type=float, default=0.1, help="of the halting unit (default 0.1)")
    add("--embedding-lr-factor", type=float, default=1.0, help="of the embeddings (default 1)")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--save-dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--skip-malformed", action="store_true", help="leave malformed lines out")
    add("--log-every", type=int, default=50, help="steps between log entries (default 50)")
    add("--evaluate-every", type=int, default=500, help="steps between evaluations (500)")
    add("--checkpoint-every", type=int, default=200, help="steps between checkpoints (200)")
    add("--stop-after", type=int, help="stop at this step, early; resumable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
