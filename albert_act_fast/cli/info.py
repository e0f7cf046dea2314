"""`info`: what is installed, what it runs on, which implementations there are."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from albert_act_fast.cli.output import Printer, needs_standard_output, print_json

_PACKAGES = (
    "albert_act_fast",
    "torch",
    "transformers",
    "tokenizers",
    "triton",
    "numpy",
    "safetensors",
)


def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Versions, devices, what was built, which implementations are available.

    For those that are not: the reason.
    """
    needs_standard_output()
    report = collect()
    if as_json:
        print_json(report)
        return
    out = Printer(sys.stdout)
    _section(out, "versions", {k: v or "not installed" for k, v in report["versions"].items()})
    cpu, cuda = report["cpu"], report["cuda"]
    _section(
        out,
        "devices",
        {
            "cpu": f"{cpu['machine']}, threads {cpu['threads']}"
            f"{' (1 while others keep the machine busy)' if cpu['gives_way'] else ''}, "
            f"{cpu['capability']} in PyTorch, "
            f"{cpu['kernels'] or 'nothing'} in our C++ operators",
            **{f"cuda:{i}": _gpu_line(gpu) for i, gpu in enumerate(cuda["devices"])},
            **({} if cuda["devices"] else {"cuda": f"none: {cuda['reason']}"}),
        },
    )
    why_not = report["not_built"]
    _section(
        out,
        "built",
        {
            kind: ", ".join(names) or f"nothing: {why_not.get(kind, 'none is there')}"
            for kind, names in report["built"].items()
        },
    )
    for device, reasons in report["implementations"].items():
        _section(
            out,
            f"implementations on {device}",
            {name: "available" if why is None else f"no: {why}" for name, why in reasons.items()},
        )
        out.line("  ", ("auto", "bold"), f" takes {report['auto'][device]} in inference")
    _section(
        out,
        "text encoder on cpu, batch-invariant",
        {name: "yes" if why is None else f"no: {why}" for name, why in report["invariant"].items()},
    )
    why = report["cuda_graphs"]
    _section(out, "triton engine", {"CUDA graphs": "used" if why is None else f"no: {why}"})


def collect() -> dict:
    """The report as plain values; its keys are what `--json` prints."""
    import torch

    from albert_act_fast import implementations, native
    from albert_act_fast.engine import cpu
    from albert_act_fast.engine.gpu import graphs

    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {
        "versions": versions(),
        "cpu": {
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "kernels": native.instruction_set(),
            "threads": torch.get_num_threads(),
            "gives_way": native.gives_way(),
        },
        "cuda": _cuda(torch),
        "cuda_graphs": graphs.why_not(torch.device(devices[-1])),
        "built": _built(),
        "not_built": _not_built(),
        "implementations": {device: implementations.availability(device) for device in devices},
        "invariant": {
            products: cpu.why_not_batch_invariant(products)
            for products in ("float32", "bfloat16", "int8")
        },
        "auto": {device: implementations.choose(device=device).name for device in devices},
    }


def versions() -> dict[str, str | None]:
    """Of Python and of the packages results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _cuda(torch) -> dict:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = f"built for CUDA {built}, but no device answers" if built else "torch without CUDA"
        return {"runtime": built, "devices": [], "reason": reason}
    gpus = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": gpu.name,
                "capability": f"{gpu.major}.{gpu.minor}",
                "memory_gib": round(gpu.total_memory / 2**30, 1),
            }
        )
    return {"runtime": torch.version.cuda, "devices": gpus, "reason": None}


def _built() -> dict[str, list[str]]:
    from albert_act_fast import native

    package = Path(__file__).parents[1]
    cuda = (native.build_info() or {}).get("cuda")
    libraries = [p for suffix in ("so", "pyd", "dylib") for p in package.glob(f"*.{suffix}")]
    kernels = (p for p in package.glob("kernels/*.py") if p.name != "__init__.py")
    return {
        "native libraries": sorted(p.name for p in libraries),
        "CUDA operators": [cuda] if cuda else [],
        "Triton kernels": sorted(p.stem for p in kernels),
    }


def _not_built() -> dict[str, str]:
    """Why what is missing is missing, and how to get it."""
    from albert_act_fast import native

    reasons = {"native libraries": native.why_no_cpp, "CUDA operators": native.why_no_cuda()}
    return {kind: reason for kind, reason in reasons.items() if reason is not None}


def _gpu_line(gpu: dict) -> str:
    return f"{gpu['name']}, compute capability {gpu['capability']}, {gpu['memory_gib']} GiB"


def _section(out: Printer, title: str, rows: dict[str, str]) -> None:
    out.line((title, "bold"))
    width = max(map(len, rows))
    for name, value in rows.items():
        out.line(f"  {name:<{width}}  {value}")
