"""The log that the training scripts write beside a model."""

from __future__ import annotations

import json
from pathlib import Path


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
