"""Peak memory of one variant, in a process of its own."""

from __future__ import annotations

import ctypes
import gc
from itertools import cycle, islice
from pathlib import Path

import torch

from albert_act_fast import TextEncoder
from suite.cases import case_named
from suite.inputs import corpus_texts
from suite.models import model_folder, model_of
from suite.processes import answer_of
from suite.variants import all_variants


def peak_memory(case: str, variant: str, folder: Path, device: str) -> int | None:
    """Bytes that loading and running the variant adds to the process, at their highest in a call
    after the first; on a GPU its memory, else resident memory. None where the system does not say.

    Raises:
        RuntimeError: the measuring process failed.
    """
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    arguments = ["memory", case, variant, str(folder)]
    arguments += ["--device", device, "--threads", str(torch.get_num_threads())]
    return answer_of(f"peak memory of {variant}, {case}", *arguments)["peak_memory"]


def measure_here(case: str, variant: str, folder: Path, device: str) -> int:
    """The same in this process, which must not have run anything before."""
    on_cpu = device == "cpu"
    chosen, batch = case_named(case), case_named(case).inputs().to(device)
    gc.collect()
    if on_cpu:
        _give_back_free_memory()
    before = _resident("VmRSS") if on_cpu else 0
    # torch.inference_mode keeps autograd's bookkeeping out.
    with torch.inference_mode():
        model = model_of(chosen, folder, device)
        call = all_variants()[variant].prepare(model, batch, model_folder(chosen, folder))
        del model
        call()
        gc.collect()
        if on_cpu:
            _give_back_free_memory()
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
        else:
            torch.cuda.reset_peak_memory_stats(device)
        call()
    return _resident("VmHWM") - before if on_cpu else torch.cuda.max_memory_allocated(device)


def stream_peaks(counts: list[int]) -> dict[int, int] | None:
    """Bytes of resident memory, at their highest so far, of a process in which the sentiment model
    that ships embeds a stream of texts: by the number of embeddings that came out. None where the
    system does not say.

    Raises:
        RuntimeError: the measuring process failed.
    """
    if not Path("/proc/self/status").exists():
        return None
    found = answer_of("peak memory of a stream", "stream-memory", *map(str, counts))
    return {int(count): peak for count, peak in found.items()}


def measure_stream_here(counts: list[int]) -> dict[int, int]:
    """The same in this process."""
    encoder = TextEncoder.from_pretrained("sst2")
    some, _ = corpus_texts(10_000)
    texts = islice(cycle(some), max(counts))
    peaks = {}
    for number, _ in enumerate(encoder.stream(texts, truncation=True), 1):
        if number in counts:
            peaks[number] = _resident("VmHWM")
    return peaks


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


def _give_back_free_memory() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return  # not glibc
