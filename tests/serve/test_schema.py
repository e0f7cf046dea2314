"""Requests that schemathesis makes of the OpenAPI document: none may be answered with 5xx."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.serving import listening

FEW, MANY = 4, 300


def _check(encoder, examples: int) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    with listening(encoder, max_body_bytes=100_000) as url:
        document = httpx.get(f"{url}/openapi.json", timeout=None, trust_env=False).json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=url)
        seen = set()
        for result in schema.get_all_operations():
            operation = result.ok()
            modes = ["POSITIVE", "NEGATIVE"] if operation.method == "post" else ["POSITIVE"]
            for mode in modes:
                strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

                @given(case=strategy)
                @settings(
                    max_examples=examples,
                    derandomize=True,
                    database=None,
                    deadline=None,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def send(case):
                    answer = case.call(timeout=None)
                    assert answer.status_code < 500, (case.body, answer.content)
                    seen.add((case.path, answer.status_code))

                send()
        paths = {path for path, _ in seen}
        assert paths == set(document["paths"])
        assert {("/health", 200), ("/info", 200), ("/tokenize", 200)} <= seen


def test_no_answer_is_5xx(encoder):
    _check(encoder, FEW)


@pytest.mark.slow
def test_no_answer_of_many_is_5xx(encoder):
    _check(encoder, MANY)
