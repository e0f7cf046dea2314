"""What `distil.py` learns from: texts without labels, and a teacher's states of them on disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from training import pad, random_for
from transformers import AutoModel, AutoTokenizer

from albert_act_fast.glue import TASKS, GlueDataError, read_examples

_SENTENCE_END = re.compile(r"(?<=[.!?])(?:[\"')\]]*)\s+")
BLOCK = 4096  # texts; what an interruption of the teacher's pass costs at most
ISOLATED_WEIGHT = 3.0  # how many occurrences the state of a word alone counts for


# --- Texts ---


def sentences_of(line: str, random, passage_share: float, longest: int) -> list[str]:
    """A paragraph's sentences, and now and then several of them in one text.

    Args:
        longest: characters of a passage, at most.
    """
    parts = [part.strip() for part in _SENTENCE_END.split(line.strip())]
    texts = [part for part in parts if part]
    if len(texts) > 1 and random.random() < passage_share:
        start = random.randrange(len(texts) - 1)
        passage = texts[start]
        for part in texts[start + 1 :]:
            if len(passage) + len(part) >= longest:
                break
            passage += " " + part
        texts.append(passage)
    return texts


def read_texts(args) -> tuple[list[str], dict[str, int]]:
    """Texts in a random order without doubles, and how many came from where.

    Of GLUE the sentences of the training and the dev sets are taken, and no label.

    Raises:
        ValueError: there is no text at all.
    """
    found: dict[str, str] = {}  # lower-cased text -> text
    counts = {}

    def add(source: str, texts: list[str]) -> None:
        before = len(found)
        random_for(args.seed, "texts", source).shuffle(texts)
        for text in texts[: args.texts_a_source]:
            if len(text) > 2:
                found.setdefault(text.lower(), text)
        counts[source] = len(found) - before

    for file in sorted(f for path in args.text for f in _text_files(path)):
        random = random_for(args.seed, "passages", file.name)
        lines = file.read_text(encoding="utf-8").splitlines()
        longest = 4 * args.max_length
        texts = [
            text for line in lines for text in sentences_of(line, random, args.passages, longest)
        ]
        add(file.name, texts)
    for task in TASKS.values() if args.glue else ():
        for split in ("train", "dev"):
            try:
                examples = read_examples(task, args.glue, split, skip_malformed=True)
            except (GlueDataError, ValueError):
                continue  # not at hand, or there is no such split
            texts = [text for example in examples for text in example.texts]
            add(f"{task.name} {split}", texts)
    if not found:
        raise ValueError("--text, --glue: no text found in them.")
    texts = list(found.values())
    random_for(args.seed, "texts").shuffle(texts)
    return texts, counts


def _text_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{path}: no *.txt file in it, and not a file.")
    return files


# --- Teacher ---


@dataclass
class Teacher:
    """A sentence encoder as SentenceTransformers saves it, without that package."""

    model: torch.nn.Module
    tokenizer: object
    pooling: str
    normalize: bool

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Teacher:
        """
        Raises:
            ValueError: the folder holds modules that are not a transformer, mean or CLS pooling
                and normalisation.
        """
        path, pooling, normalize = folder, "mean", False
        modules = folder / "modules.json"
        for module in json.loads(modules.read_text()) if modules.is_file() else ():
            kind = module["type"].rsplit(".", 1)[-1]
            if kind == "Transformer":
                path = folder / module["path"]
            elif kind == "Pooling":
                settings = json.loads((folder / module["path"] / "config.json").read_text())
                modes = [
                    name.removeprefix("pooling_mode_")
                    for name, value in settings.items()
                    if name.startswith("pooling_mode_") and value
                ] or [settings.get("pooling_mode")]
                pooling = {
                    "mean_tokens": "mean",
                    "cls_token": "cls",
                    "mean": "mean",
                    "cls": "cls",
                }.get(modes[0] if len(modes) == 1 else None)
                if pooling is None:
                    raise ValueError(f"{folder}: pooling {modes}, expected mean or CLS pooling.")
            elif kind == "Normalize":
                normalize = True
            else:
                raise ValueError(f"{folder}: module {module['type']} is not supported.")
        model = AutoModel.from_pretrained(path, dtype=torch.float32).to(dtype).eval()
        return cls(model, AutoTokenizer.from_pretrained(path), pooling, normalize)

    @torch.no_grad()
    def states(self, rows: list[list[int]]) -> tuple[list[Tensor], Tensor]:
        """Of each text its token states [n, H] and its pooled embedding [H], float32."""
        ids = pad(rows, self.tokenizer.pad_token_id or 0)
        mask = pad([[1] * len(row) for row in rows], 0)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        states = [hidden[i, : len(row)] for i, row in enumerate(rows)]
        return states, torch.stack([pool(state, self.pooling) for state in states])


def pool(states: Tensor, pooling: str) -> Tensor:
    """[H] of one text's token states [n, H]."""
    return states.mean(0) if pooling == "mean" else states[0]


def load_student_tokenizer(folder: Path):
    """The teacher's, without the limits that its folder has for a call: texts are never cut but
    where a call asks for it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for setting in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(setting, None)
    tokenizer.model_max_length = 512
    return tokenizer


# --- The teacher's states, on disk ---


class TeacherStates:
    """Token ids and the teacher's token states of all texts, text by text.

    Attributes:
        ids: int32 [T]; states: float16 [T, H], on disk; offsets: text `i` owns rows
        `offsets[i]` to `offsets[i + 1]`.
        static: float32 [V, H], of each vocabulary entry the mean of its states in the texts and
            alone: the best that can be said of a token without its context.
        counts: float32 [V], occurrences.
    """

    def __init__(self, folder: Path):
        self.offsets = np.load(folder / "offsets.npy")
        self.ids = np.load(folder / "ids.npy")
        table = torch.load(folder / "static.pt", weights_only=True)
        self.static, self.counts = table["static"], table["counts"]
        shape = (len(self.ids), self.static.size(1))
        self.states = np.memmap(folder / "states.f16", np.float16, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def batch(self, chosen: list[int]) -> tuple[list[list[int]], Tensor]:
        """Token ids of the texts chosen, and their states one after the other, [rows, H]."""
        slices = [slice(self.offsets[i], self.offsets[i + 1]) for i in chosen]
        states = np.concatenate([self.states[s] for s in slices])
        return [self.ids[s].tolist() for s in slices], torch.from_numpy(states).float()


def prepare(args, folder: Path) -> dict:
    """Runs the teacher once over all texts; goes on where an earlier call was interrupted.

    Returns:
        Facts for the log: texts by source, tokens.
    """
    facts_file = folder / "facts.json"
    if facts_file.exists():
        return json.loads(facts_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    teacher = Teacher.load(args.teacher, getattr(torch, args.teacher_dtype))
    texts, counts = read_texts(args)
    rows = teacher.tokenizer(texts, truncation=True, max_length=args.max_length, verbose=False)
    rows = rows["input_ids"]
    blocks = [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
    width = teacher.model.config.hidden_size
    done, sums, seen = _resume_states(folder, width, teacher.model.config.vocab_size)
    starts = [0, *accumulate(sum(map(len, block)) for block in blocks)]
    with (folder / "states.f16").open("r+b" if done else "wb") as file:
        for number in tqdm(range(done, len(blocks)), desc="teacher", initial=done, unit="block"):
            block = blocks[number]
            states = _states_of(teacher, block, args.teacher_tokens)
            flat = torch.tensor([token for row in block for token in row])
            sums.index_add_(0, flat, states)
            seen.index_add_(0, flat, torch.ones(len(flat)))
            file.seek(starts[number] * width * 2)
            file.write(states.half().numpy().tobytes())
            file.flush()
            _write(folder / "progress.pt", {"done": number + 1, "sums": sums, "counts": seen})
    lengths = np.array([len(row) for row in rows])
    np.save(folder / "offsets.npy", np.concatenate([[0], lengths.cumsum()]))
    np.save(folder / "ids.npy", np.array([t for row in rows for t in row], np.int32))
    alone = _alone(teacher, args.teacher_tokens)
    static = (sums + ISOLATED_WEIGHT * alone) / (seen + ISOLATED_WEIGHT).unsqueeze(1)
    _write(folder / "static.pt", {"static": static, "counts": seen})
    (folder / "progress.pt").unlink()
    facts = {"texts": counts, "tokens": int(lengths.sum()), "pooling": teacher.pooling}
    facts["normalize"] = teacher.normalize
    facts_file.write_text(json.dumps(facts))
    return facts


def _resume_states(folder: Path, width: int, vocabulary: int) -> tuple[int, Tensor, Tensor]:
    if (folder / "progress.pt").exists():
        saved = torch.load(folder / "progress.pt", weights_only=True)
        return saved["done"], saved["sums"], saved["counts"]
    return 0, torch.zeros(vocabulary, width), torch.zeros(vocabulary)


def _states_of(teacher: Teacher, rows: list[list[int]], batch_tokens: int) -> Tensor:
    """[rows' tokens, H], in the order given; texts of like length share a batch."""
    result: list = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    start = 0
    while start < len(order):
        longest, stop = 0, start
        while stop < len(order):
            longest = max(longest, len(rows[order[stop]]))
            if stop > start and longest * (stop - start + 1) > batch_tokens:
                break
            stop += 1
        chosen = order[start:stop]
        states, _ = teacher.states([rows[i] for i in chosen])
        for i, state in zip(chosen, states, strict=True):
            result[i] = state
        start = stop
    return torch.cat(result)


def _alone(teacher: Teacher, batch_tokens: int) -> Tensor:
    """[V, H]: the state of each vocabulary entry as a text of its own."""
    tokenizer = teacher.tokenizer
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [[cls, token, sep] for token in range(teacher.model.config.vocab_size)]
    return _states_of(teacher, rows, batch_tokens).view(len(rows), 3, -1)[:, 1].clone()


def _write(path: Path, value: dict) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save(value, unfinished)
    unfinished.replace(path)
