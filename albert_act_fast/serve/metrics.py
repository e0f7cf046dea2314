"""What Prometheus reads at /metrics.

Names that begin with `te_` are those of text-embeddings-inference and mean the same there, except
that Prometheus' Python client ends counters with `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POWERS = tuple(2**n for n in range(1, 16))


class Metrics:
    """The metrics of one service, in a registry of their own.

    Args:
        iteration_limit: most iterations of a token.
    """

    def __init__(self, iteration_limit: int):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "te_request_count", "Requests, by route.", ["route"], registry=registry
        )
        self.answers = Counter(
            "albert_act_fast_responses",
            "Answers, by route and status; 499 is a client that went away.",
            ["route", "status"],
            registry=registry,
        )
        self.failures = Counter(
            "te_request_failure", "Requests that failed, by kind.", ["err"], registry=registry
        )
        self.text_failures = Counter(
            "albert_act_fast_text_failures",
            "Texts that failed, by kind.",
            ["err"],
            registry=registry,
        )
        self.duration = Histogram(
            "te_request_duration",
            "Seconds of a request.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokenization = Histogram(
            "te_request_tokenization_duration",
            "Seconds of tokenization.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queued = Histogram(
            "te_request_queue_duration",
            "Seconds that a request waited for an engine.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference = Histogram(
            "te_request_inference_duration",
            "Seconds of a batch in an engine.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_size = Gauge("te_queue_size", "Texts that wait.", registry=registry)
        self.queue_tokens = Gauge(
            "albert_act_fast_queue_tokens", "Tokens that wait.", registry=registry
        )
        self.active = Gauge(
            "albert_act_fast_requests_active", "Requests being answered.", registry=registry
        )
        self.workers = Gauge(
            "albert_act_fast_workers", "Engines that can compute.", registry=registry
        )
        self.deaths = Counter(
            "albert_act_fast_worker_deaths",
            "Workers that died and were replaced.",
            registry=registry,
        )
        self.batch_size = Histogram(
            "te_batch_next_size", "Texts in a batch.", buckets=_POWERS[:10], registry=registry
        )
        self.batch_tokens = Histogram(
            "te_batch_next_tokens", "Tokens in a batch.", buckets=_POWERS, registry=registry
        )
        self.batch_fill = Histogram(
            "albert_act_fast_batch_fill",
            "Tokens of a batch over the most it may have.",
            buckets=[n / 10 for n in range(1, 11)],
            registry=registry,
        )
        self.texts = Counter("te_embed_count", "Texts computed.", registry=registry)
        self.tokens = Counter("albert_act_fast_tokens", "Tokens computed.", registry=registry)
        self.rows = Counter(
            "albert_act_fast_rows_computed", "Token iterations computed.", registry=registry
        )
        self.saved = Counter(
            "albert_act_fast_rows_saved",
            "Token iterations that a model of fixed depth would compute besides: those up to the "
            "model's iteration limit.",
            registry=registry,
        )
        self.iterations = TokenIterations(iteration_limit)
        registry.register(self.iterations)

    def text_done(self, tokens_by_iterations: Sequence[int]) -> None:
        """A text was computed."""
        tokens = sum(tokens_by_iterations)
        rows = sum(n * count for n, count in enumerate(tokens_by_iterations))
        self.texts.inc()
        self.tokens.inc(tokens)
        self.rows.inc(rows)
        self.saved.inc(tokens * self.iterations.limit - rows)
        self.iterations.add(tokens_by_iterations)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


class TokenIterations:
    """A histogram of iterations a token that takes many tokens at once."""

    def __init__(self, limit: int):
        self.limit = limit
        self._counts = [0] * (limit + 1)

    def add(self, tokens_by_iterations: Sequence[int]) -> None:
        for iterations, tokens in enumerate(tokens_by_iterations):
            self._counts[iterations] += tokens

    def collect(self) -> Iterator[HistogramMetricFamily]:
        below, buckets = self._counts[0], []
        for iterations in range(1, self.limit + 1):
            below += self._counts[iterations]
            buckets.append((str(float(iterations)), below))
        buckets.append(("+Inf", below))
        rows = sum(n * count for n, count in enumerate(self._counts))
        yield HistogramMetricFamily(
            "albert_act_fast_token_iterations", "Iterations of a token.", buckets, sum_value=rows
        )
