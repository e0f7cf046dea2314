"""Runs cases: every variant is checked, then all are timed in turn, then each becomes a row."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from suite import machine, operators, timing, training
from suite.calibration import depth_table, depths_by_class, targets
from suite.cases import BASELINE, Case
from suite.gate import Check, Gate, WrongResult
from suite.memory import peak_memory
from suite.models import model_folder, model_of
from suite.variants import Call, Variant, all_variants
from suite.work import dense_work, needed_work

MAX_ROUNDS = 21


class Runner:
    """Everything that the cases of one run share.

    Args:
        folder: for models and exported files.
        report: takes every row as soon as it is there.
        variants: by name; the default is all there are.
        only: measure these alone, and the reference.
        effort: multiplies the time that cases ask for.
        memory: False leaves peak memory out.
        after_round: called after each round of timing.
        clock: times the variants.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[dict], None],
        *,
        device: str = "cpu",
        variants: dict[str, Variant] | None = None,
        only: Iterable[str] | None = None,
        effort: float = 1.0,
        memory: bool = True,
        after_round: Callable[[], None] | None = None,
        console: Console | None = None,
        clock: timing.Clock = timing.MACHINE_CLOCK,
    ):
        self.folder, self.report, self.device = folder, report, device
        self.variants = all_variants() if variants is None else variants
        self.only = None if only is None else {BASELINE, *only}
        self.effort, self.memory = effort, memory
        self.after_round = after_round or (lambda: None)
        self.console = console or Console(stderr=True)
        self.clock = clock
        self.facts = machine.facts(device)
        self.wrong: list[str] = []

    @torch.inference_mode()
    def run(self, case: Case) -> list[dict]:
        """The case's rows; those of wrong variants are there too, without a time."""
        batch = case.inputs().to(self.device)
        with torch.inference_mode(False):
            model = model_of(case, self.folder, self.device)
        gate = Gate(model, batch, self.clock)
        about, needed, dense = self._about(case, model, batch, gate)
        self.console.print(f"[bold]{case.name}[/bold] ({batch.source}): {about['depth_text']}")
        del about["depth_text"]
        files = model_folder(case, self.folder)

        rows, calls, checks = [], {}, {}
        names = [n for n in case.variants if self.only is None or n in self.only]
        for name in tqdm(names, desc="checking", leave=False):
            if name == BASELINE:
                # The gate has run it; of a large batch every call of it takes long.
                calls[name] = self.variants[name].prepare(model, batch, files)
                checks[name] = Check(0.0, 0.0)
                continue
            outcome = self._checked(self.variants[name], model, batch, gate, files)
            if isinstance(outcome, str):
                field = "wrong" if name in self.wrong else "skipped"
                rows.append({**about, "variant": name, field: outcome})
            else:
                calls[name], checks[name] = outcome
        peaks = machine.product_peaks(self.device, {self.variants[name].dtype for name in calls})
        seconds = self._time(case, calls, gate.reference_seconds)
        reference = seconds[BASELINE]
        memory = self._memory(case, list(seconds))
        for name, measured in seconds.items():
            variant, check = self.variants[name], checks[name]
            work = needed if variant.drops else dense
            if not variant.adaptive:
                iterations = model.config.num_hidden_layers
                work = dense_work(model.config, *batch.input_ids.shape, iterations)
            rows.append(
                {
                    **about,
                    "variant": name,
                    "dtype": variant.dtype,
                    **timing.figures(measured, reference),
                    **self._efficiency(variant, work, needed, measured, peaks),
                    "work_saved": round(dense.rows / work.rows, 3),
                    "peak_memory": memory.get(name),
                    "error": float(f"{check.error:.3g}"),
                    "differing_depths": check.differing,
                }
            )
        for row in rows:
            self.report({**row, **self.facts})
        return rows

    def _about(self, case: Case, model, batch, gate: Gate) -> tuple:
        """What all rows of the case hold, and the work: what is needed, and the plain loop's."""
        n_updates = gate.reference.n_updates
        needed = needed_work(model.config, n_updates, batch.attention_mask)
        dense = dense_work(model.config, *batch.input_ids.shape, int(n_updates.max()))
        depths = depths_by_class(n_updates, batch)
        wanted = {} if case.size == "shipped" else targets(case.size, case.depth)
        about = {
            "kind": "model",
            "case": case.name,
            "size": case.size,
            "text": batch.source,
            "batch": batch.input_ids.size(0),
            "length": batch.input_ids.size(1),
            "tokens": batch.tokens,
            "iteration_limit": model.config.num_hidden_layers,
            "depths": depths,
            "dense_rows": dense.rows,
            "running_rows": needed.running_rows,
            "depth_text": f"mean depth {depth_table(depths, wanted)}",
        }
        return about, needed, dense

    def _checked(self, variant: Variant, model, batch, gate, files) -> str | tuple[Call, Check]:
        """The call and what it is off by, or why there is none."""
        if (reason := variant.why_not(self.device)) is not None:
            return reason
        with torch.inference_mode(False), torch.no_grad():
            call = variant.prepare(model, batch, files)
        try:
            return call, gate.check(variant, call())
        except WrongResult as error:
            self.wrong.append(variant.name)
            self.console.print(f"[red]wrong[/red] {error}")
            return str(error)

    def _time(
        self, case: Case, calls: dict[str, Call], reference_seconds: float
    ) -> dict[str, list[float]]:
        synchronize = machine.synchronizer(self.device)
        estimates = {
            name: (
                reference_seconds
                if name == BASELINE
                else timing.timed(call, synchronize, self.clock)
            )
            for name, call in calls.items()
        }
        one_round = sum(max(estimate, timing.TURN_SECONDS) for estimate in estimates.values())
        rounds = int(self.effort * case.seconds / one_round)
        rounds = min(MAX_ROUNDS, max(case.rounds, rounds))
        with tqdm(total=rounds * len(calls), desc="timing", leave=False) as bar:
            return timing.interleave(
                calls, estimates, rounds, bar.update, synchronize, self.after_round, self.clock
            )

    @staticmethod
    def _efficiency(variant: Variant, work, needed, measured: list[float], peaks) -> dict:
        seconds = timing.quartiles(measured)[1]
        peak = peaks.get(variant.dtype)
        useful = needed.flop / seconds if variant.adaptive else None
        return {
            "rows": work.rows,
            "useful_flops": useful,
            "peak_flops": peak,
            "share_of_peak": useful / peak if useful and peak else None,
            "kernel_efficiency": work.flop / seconds / peak if peak else None,
        }

    def _memory(self, case: Case, variants: list[str]) -> dict[str, int | None]:
        if not (case.memory and self.memory):
            return {}

        def measure(variant: str) -> int | None:
            return peak_memory(case.name, variant, self.folder, self.device)

        # Memory does not depend on who else runs.
        with ThreadPoolExecutor(os.cpu_count() if self.device == "cpu" else 1) as pool:
            found = pool.map(measure, variants)
            return dict(zip(variants, tqdm(found, "memory", len(variants), False), strict=True))

    def run_operators(self) -> list[dict]:
        """Each operator against its floor."""
        self.console.print("[bold]operators[/bold]")
        with tqdm(total=operators.steps(), desc="operators", leave=False) as bar:
            return self._others(operators.operator_rows(self.device, bar.update))

    def run_parts(self) -> list[dict]:
        """Where a call of the engine in C++ spends its time."""
        # It reads the engine's own clocks, which an older commit's package may not have.
        from suite import parts

        self.console.print("[bold]parts of a call[/bold]")
        with tqdm(total=parts.steps(), desc="parts", leave=False) as bar:
            return self._others(parts.parts_rows(self.folder, bar.update))

    def run_training(self) -> list[dict]:
        """A training step."""
        self.console.print("[bold]training step[/bold]")
        with tqdm(total=2 * training.ROUNDS + 2, desc="training", leave=False) as bar:
            return self._others(training.training_rows(self.folder, bar.update))

    def run_serve(self) -> list[dict]:
        """The service under load, and others beside it."""
        # An older commit's package has none.
        from suite import serving

        self.console.print("[bold]service[/bold]")
        servers = tuple(s for s in serving.SERVERS if self.only is None or s.name in self.only)
        with tqdm(total=serving.steps(), desc="serve", leave=False) as bar:
            return self._others(
                serving.serve_rows(
                    self.folder, bar.update, effort=self.effort, servers=servers, clock=self.clock
                )
            )

    def run_sentence(self) -> list[dict]:
        """One sentence from its string to its embedding."""
        # An older commit's package has no TextEncoder.
        from suite import one_sentence

        self.console.print("[bold]sentence[/bold]")
        rounds = max(1, round(self.effort * one_sentence.ROUNDS))
        with tqdm(total=one_sentence.steps(), desc="sentence", leave=False) as bar:
            rows = one_sentence.sentence_rows(
                self.folder, bar.update, rounds=rounds, clock=self.clock
            )
            return self._others(rows)

    def run_corpus(self) -> list[dict]:
        """A corpus from texts to embeddings, and the memory of a stream."""
        # An older commit's package has none.
        from suite import corpus

        self.console.print("[bold]corpus[/bold]")
        ways = tuple(w for w in corpus.WAYS if self.only is None or w.name in self.only)
        rows = []
        for size, sentences in corpus.SIZES.items():
            sentences = max(1, round(self.effort * sentences))
            count = corpus.steps(sentences, ways)
            with tqdm(total=count, desc=f"corpus, {size}", leave=False) as bar:
                rows += self._others(
                    corpus.corpus_rows(
                        self.folder,
                        size,
                        bar.update,
                        sentences=sentences,
                        ways=ways,
                        clock=self.clock,
                    )
                )
        if self.memory:
            rows += self._others(corpus.memory_rows(self.effort))
        return rows

    def run_crowd(self) -> list[dict]:
        """A stream of texts on a quiet machine and on a busy one."""
        # An older commit's package has no TextEncoder.
        from suite import crowd

        self.console.print("[bold]crowd[/bold]")
        rounds = max(1, round(self.effort * crowd.ROUNDS))
        with tqdm(total=crowd.steps(rounds), desc="crowd", leave=False) as bar:
            return self._others(crowd.crowd_rows(bar.update, rounds=rounds))

    def _others(self, rows: Iterable[dict]) -> list[dict]:
        seen = []
        for row in rows:
            if "wrong" in row:
                self.wrong.append(row["variant"])
            self.report({**row, **self.facts})
            seen.append(row)
        return seen
