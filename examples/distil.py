"""Distils a sentence encoder into an ALBERT-ACT, with the ACT loss.

    python examples/distil.py --teacher TEACHER --text TEXT_DIR --glue GLUE_DIR --output OUT

TEACHER is a folder as SentenceTransformers saves it (transformer, mean or CLS pooling). TEXT_DIR
holds *.txt files, one paragraph a line; of GLUE_DIR the sentences are used, never a label, but for
the STS-B figure that the log reports. OUT gets the model, its log (training_log.jsonl), a
checkpoint and the teacher's states of all texts (OUT/teacher, about a gigabyte for a million
tokens of width 384; delete it afterwards); the same command resumes an interrupted run.

The student has the teacher's tokenizer and is trained to give its token states and its pooled
embedding. It starts from what can be said of a token without context: its word embeddings are a
factorisation of the mean state that the teacher has for each vocabulary entry.

Depth is kept alive in three ways. The halting unit is held constant for --halting-from steps; then
its weights are drawn with --halting-spread; and from then on tau, the weight of the ponder cost, is
steered so that the mean depth stays near --depth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from distil_data import TeacherStates, load_student_tokenizer, prepare
from distil_student import Student, initialise, make_student
from distil_tools import evaluate_sts, save_pooling
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

from albert_act_fast.modeling.heads import act_loss


class Batches:
    """The texts of every step, a function of (seed, step): like lengths, random order."""

    def __init__(self, lengths, texts: range, batch_tokens: int, seed: int | str):
        self.lengths, self.texts = lengths.tolist(), texts
        self.batch_tokens, self.seed = batch_tokens, seed
        self.first_step, self.epoch = 0, 0
        self._shuffle()

    def _shuffle(self) -> None:
        random = random_for(self.seed, "epoch", self.epoch)
        # Lengths are blurred, so that it isn't always the same texts that meet.
        order = sorted(self.texts, key=lambda i: self.lengths[i] * random.uniform(0.85, 1.15))
        self.batches, batch, tokens = [], [], 0
        for i in order:
            if batch and tokens + self.lengths[i] > self.batch_tokens:
                self.batches.append(batch)
                batch, tokens = [], 0
            batch.append(i)
            tokens += self.lengths[i]
        self.batches.append(batch)
        random.shuffle(self.batches)

    def at(self, step: int) -> list[int]:
        while step >= self.first_step + len(self.batches):
            self.first_step += len(self.batches)
            self.epoch += 1
            self._shuffle()
        return self.batches[step - self.first_step]


def pooled(states: Tensor, text: Tensor, count: int, first: Tensor, pooling: str) -> Tensor:
    """[texts, H] of packed states [rows, H]; `text` is each row's text, `first` the CLS rows."""
    if pooling == "cls":
        return states[first]
    sums = states.new_zeros(count, states.size(1)).index_add(0, text, states)
    return sums / text.bincount(minlength=count).unsqueeze(1)


def losses(states: Tensor, target: Tensor, lengths: Tensor, pooling: str, temperature: float):
    """The three losses of packed token states [rows, H] against the teacher's.

    Returns:
        Of the token states the squared error as a share of the teacher's variance; of the pooled
        embeddings 1 - cosine; and the divergence between the batch's similarities, each text's as
        a distribution over the others.
    """
    count = len(lengths)
    text = torch.repeat_interleave(torch.arange(count), lengths)
    first = lengths.cumsum(0) - lengths
    token = (states - target).square().sum() / (target - target.mean(0)).square().sum()
    ours = F.normalize(pooled(states, text, count, first, pooling), dim=1)
    theirs = F.normalize(pooled(target, text, count, first, pooling), dim=1)
    sentence = 1 - (ours * theirs).sum(1).mean()
    if count < 2:
        return token, sentence, token.new_zeros(())
    itself = torch.eye(count, dtype=torch.bool)
    ours, theirs = (
        (x @ x.T / temperature).masked_fill(itself, -1e4).log_softmax(1) for x in (ours, theirs)
    )
    similarity = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return token, sentence, similarity


def run_student(student: Student, data: TeacherStates, chosen: list[int], tokenizer, precision):
    """Packed states [rows, W], the teacher's [rows, W], lengths [texts], ids, mask, output."""
    rows, target = data.batch(chosen)
    ids = pad(rows, tokenizer.pad_token_id or 0)
    mask = pad([[1] * len(row) for row in rows], 0).bool()
    with autocast(precision, ids.device):
        output = student.encoder(input_ids=ids, attention_mask=mask.long())
        states = student.projection(output.last_hidden_state[mask]).float()
    lengths = torch.tensor([len(row) for row in rows])
    return states, target, lengths, ids, mask, output


def depth_groups(ids: Tensor, mask: Tensor, tokenizer) -> dict[str, Tensor]:
    cls, sep = ids == tokenizer.cls_token_id, ids == tokenizer.sep_token_id
    return {"all": mask, "cls": cls & mask, "sep": sep & mask}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    states_folder = args.states or args.output / "teacher"
    facts = prepare(args, states_folder)
    data = TeacherStates(states_folder)
    tokenizer = load_student_tokenizer(args.teacher)
    student = make_student(args, len(data.static), data.static.size(1), tokenizer)
    if not (args.output / "checkpoint.pt").exists():
        explained = initialise(student, data.static, data.counts, args)
    else:
        explained = None
    held_out = range(round(len(data) * (1 - args.held_out)), len(data))
    batches = Batches(data.lengths, range(held_out.start), args.batch_tokens, args.seed)
    start_log(
        args.output,
        args,
        **facts,
        parameters=student.encoder.num_parameters(),
        steps_an_epoch=len(batches.batches),
        variance_explained_by_embeddings=explained,
    )
    weights = (args.token_weight, args.sentence_weight, args.similarity_weight)
    pooling = facts["pooling"]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == args.halting_from:
            student.spread_halting(args.halting_spread, args.seed)
        states, target, lengths, ids, mask, output = run_student(
            student, data, batches.at(step), tokenizer, args.precision
        )
        parts = losses(states, target, lengths, pooling, args.temperature)
        loss = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        depths = DepthMeter()
        depths.add(output.n_updates, **depth_groups(ids, mask, tokenizer))
        found = output.n_updates[mask]
        figures = dict(
            zip(("token", "sentence", "similarity"), (p.item() for p in parts), strict=True)
        )
        if step >= args.halting_from:
            tau = student.tau.steer(found.mean().item(), args.depth, args.tau, args.tau_gain)
            loss = loss + act_loss(output.ponder_cost, tau)
            figures["tau_per_mille"] = 1000 * tau
        return loss, figures | depths.means() | {"depth_deviation": found.std().item()}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        student.eval()
        sums, weight, depths = torch.zeros(3), 0, DepthMeter()
        found = []
        for chosen in (
            Batches(data.lengths, held_out, args.batch_tokens, 0).batches if held_out else ()
        ):
            states, target, lengths, ids, mask, output = run_student(
                student, data, chosen, tokenizer, "fp32"
            )
            parts = losses(states, target, lengths, pooling, args.temperature)
            sums += len(chosen) * torch.stack(parts)
            weight += len(chosen)
            depths.add(output.n_updates, **depth_groups(ids, mask, tokenizer))
            found.append(output.n_updates[mask])
        figures = dict(
            zip(("token", "sentence", "similarity"), (sums / max(1, weight)).tolist(), strict=True)
        )
        figures = {name: round(value, 4) for name, value in figures.items()} | depths.means()
        if found:
            figures["depth_deviation"] = round(torch.cat(found).std().item(), 3)
        if args.glue:
            figures |= evaluate_sts(student.encoder, tokenizer, args.glue, pooling)
        return figures

    train(
        student,
        make_optimizer(student, args.weight_decay),
        args.output,
        schedule=Schedule(
            args.steps, args.lr, args.warmup, args.halting_lr_factor, args.halting_from
        ),
        seed=args.seed,
        loss_at=loss_at,
        evaluate=evaluate,
        log_every=args.log_every,
        evaluate_every=args.evaluate_every,
        checkpoint_every=args.checkpoint_every,
        stop_after=args.stop_after,
        description="distilling",
    )
    student.encoder.config.implementation = "auto"
    save_model(student.encoder, tokenizer, args.output, args.save_dtype)
    save_pooling(args.output, student.encoder.config.hidden_size, pooling)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="folder of a SentenceTransformer")
    add("--text", type=Path, nargs="*", default=[], help="folders of *.txt files, or such files")
    add("--glue", help="GLUE's folder; its sentences are texts, its labels are not used")
    add("--output", type=Path, required=True, help="folder of the model, its log and checkpoint")
    add("--states", type=Path, help="folder of the teacher's states (default OUTPUT/teacher)")
    add("--texts-a-source", type=int, default=100_000, help="at most, of a file or GLUE split")
    add("--passages", type=float, default=0.35, help="passages a paragraph (default 0.35)")
    add("--max-length", type=int, default=128, help="tokens of a text, at most (default 128)")
    add("--held-out", type=float, default=0.005, help="share of texts held out (default 0.005)")
    add("--teacher-dtype", choices=("float32", "bfloat16"), default="float32")
    add("--teacher-tokens", type=int, default=4096, help="tokens a batch of the teacher's (4096)")
    add("--steps", type=int, default=6000, help="training steps (default 6000)")
    add("--batch-tokens", type=int, default=1536, help="tokens a batch (default 1536)")
    add("--lr", type=float, default=1e-3, help="highest learning rate (default 1e-3)")
    add("--warmup", type=int, default=200, help="steps of warm-up (default 200)")
    add("--weight-decay", type=float, default=0.01, help="default 0.01")
    add("--token-weight", type=float, default=1.0, help="of the token states' loss (default 1)")
    add("--sentence-weight", type=float, default=2.0, help="of the embeddings' loss (default 2)")
    add("--similarity-weight", type=float, default=1.0, help="of the similarities' (default 1)")
    add("--temperature", type=float, default=0.05, help="of the similarities (default 0.05)")
    add("--hidden-size", type=int, help="default: the teacher's")
    add("--embedding-size", type=int, default=112, help="default 112")
    add("--intermediate-size", type=int, default=768, help="default 768")
    add("--heads", type=int, default=12, help="attention heads (default 12)")
    add("--hidden-act", default="gelu", help="activation (default gelu)")
    add("--iterations", type=int, default=12, help="most iterations a token (default 12)")
    add("--depth", type=float, default=4.5, help="mean depth tau is steered to (default 4.5)")
    add("--tau", type=float, default=1e-4, help="tau to start from (default 1e-4)")
    add("--tau-gain", type=float, default=2e-6, help="change of tau a step and iteration too many")
    add("--halting-from", type=int, default=1000, help="step from which halting is learnt (1000)")
    add("--halting-spread", type=float, default=0.04, help="deviation of its first weights (0.04)")
    add("--halting-lr-factor", type=float, default=1.0, help="of the halting unit (default 1)")
    add("--seed", type=int, default=0, help="default 0")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16 (autocast)")
    add("--save-dtype", choices=("float32", "float16"), default="float32", help="of the weights")
    add("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    add("--log-every", type=int, default=50, help="steps between log entries (default 50)")
    add("--evaluate-every", type=int, default=500, help="steps between evaluations (default 500)")
    add("--checkpoint-every", type=int, default=200, help="steps between checkpoints (200)")
    add("--stop-after", type=int, help="stop at this step, early; resumable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
