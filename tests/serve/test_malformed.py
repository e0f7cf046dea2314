"""Requests that are wrong in every way: an answer that says why, none above 499."""

from __future__ import annotations

import json

import pytest
from support.serving import ManualEngine, run, running, settled

JSON = {"content-type": "application/json"}
LONG = "word " * 100

# Path, body (bytes, or a document), headers, status, part of the reason.
MALFORMED = {
    "no body": ("/embed", b"", JSON, 422, "body"),
    "no JSON": ("/embed", b"{inputs}", JSON, 422, "JSON"),
    "cut off": ("/embed", b'{"inputs": "so', JSON, 422, "JSON"),
    "not UTF-8": ("/embed", b'{"inputs": "\xff\xfe"}', JSON, 422, "body"),
    "NUL bytes": ("/embed", b"\x00" * 64, JSON, 422, ""),
    "deep nesting": ("/embed", b"[" * 100_000, JSON, 422, ""),
    "number of many digits": ("/embed", b'{"inputs": ' + b"9" * 5000 + b"}", JSON, 422, ""),
    "not a number": ("/embed", b'{"inputs": NaN}', JSON, 422, "a number"),
    "other content type": ("/embed", b'{"inputs": "so"}', {"content-type": "text/plain"}, 422, ""),
    "list": ("/embed", ["so"], {}, 422, "dictionary"),
    "no inputs": ("/embed", {}, {}, 422, "inputs: Field required"),
    "no text": ("/embed", {"inputs": []}, {}, 422, "got no text"),
    "null": ("/embed", {"inputs": None}, {}, 422, "got null"),
    "number": ("/embed", {"inputs": 3.5}, {}, 422, "got a number"),
    "object": ("/embed", {"inputs": {"text": "so"}}, {}, 422, "got an object"),
    "token ids": ("/v1/embeddings", {"input": [5, 6]}, {}, 422, "got token ids in place 0"),
    "lists of ids": ("/v1/embeddings", {"input": [[5], [6]]}, {}, 422, "got token ids"),
    "one of many": ("/embed", {"inputs": ["so", True]}, {}, 422, "a truth value in place 1"),
    "empty text": ("/embed", {"inputs": ["so", ""]}, {}, 422, "inputs[1]: got ''"),
    "white space": ("/embed", {"inputs": " \n\t"}, {}, 422, "no token"),
    "surrogate": ("/embed", b'{"inputs": "\\ud800"}', JSON, 422, "surrogate"),
    "unknown pieces": ("/embed", {"inputs": "☃"}, {}, 422, "knows no piece"),
    "too long": ("/embed", {"inputs": LONG}, {}, 413, "expected at most 40"),
    "too many": ("/embed", {"inputs": ["so"] * 5}, {}, 413, "got 5 texts, expected at most 4"),
    "too large": ("/embed", {"inputs": "x" * 300_000}, {}, 413, "at most 200000 bytes"),
    "misspelt": ("/embed", {"inputs": "so", "normalise": True}, {}, 422, "normalise"),
    "no truth value": ("/embed", {"inputs": "so", "truncate": "yes"}, {}, 422, "truncate"),
    "left": ("/embed", {"inputs": "so", "truncation_direction": "left"}, {}, 422, "'right'"),
    "prompt": ("/embed", {"inputs": "so", "prompt_name": "query"}, {}, 422, "prompt_name"),
    "dimensions": ("/v1/embeddings", {"input": "so", "dimensions": 7}, {}, 422, "expected 48"),
    "format": ("/v1/embeddings", {"input": "so", "encoding_format": "hex"}, {}, 422, "encoding"),
    "pair": ("/predict", {"inputs": ["one", "two"]}, {}, 422, "got a pair"),
    "pair in a batch": ("/predict", {"inputs": [["one"], ["a", "b"]]}, {}, 422, "pair of texts"),
    "three": ("/predict", {"inputs": [["one", "two", "three"]]}, {}, 422, "another shape"),
    "timeout": ("/embed", {"inputs": "so"}, {"x-request-timeout": "soon"}, 422, "seconds"),
    "no time": ("/embed", {"inputs": "so"}, {"x-request-timeout": "0"}, 422, "seconds"),
    "no route": ("/embeddings", {"inputs": "so"}, {}, 404, "no such route"),
    "too many for tokenize": ("/tokenize", {"inputs": ["so"] * 5}, {}, 413, "got 5 texts"),
}


def test_all_of_them(encoder, log_lines):
    @run
    async def check():
        async with running(encoder, max_client_batch_size=4, max_body_bytes=200_000) as client:
            for name, (path, body, headers, status, reason) in MALFORMED.items():
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                answer = await client.post(path, content=content, headers={**JSON, **headers})
                assert answer.status_code == status, (name, answer.status_code, answer.text)
                document = answer.json()
                if path.startswith("/v1/"):
                    assert document["error"]["code"] == status, name
                    shown = document["error"]["message"]
                else:
                    assert set(document) == {"error", "error_type"}, name
                    shown = document["error"]
                assert reason in shown, (name, shown)
            # And it goes on.
            assert (await client.post("/embed", json={"inputs": "so"})).status_code == 200

    check()
    assert not [line for line in log_lines() if line["level"] == "error"]


@run
async def test_other_methods(encoder):
    async with running(encoder) as client:
        answer = await client.get("/embed")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json()["error"] == "another method is expected"


def test_no_log_holds_a_text(encoder, log_lines):
    secret = "xyzzyplugh"
    bodies = [
        {"inputs": secret},
        {"inputs": [secret, ""]},
        {"inputs": f"{secret} " * 100},
        {"inputs": secret, secret: 1},
        {"inputs": {secret: secret}},
        {"inputs": 7, "truncate": secret},
    ]

    class Failing(ManualEngine):
        async def compute(self, task, texts):
            raise RuntimeError(f"no kernel for {texts[0].text}")

    @run
    async def check():
        for engines in (None, [Failing()]):
            async with running(encoder, engines=engines) as client:
                for path in ("/embed", "/depth", "/predict", "/tokenize", f"/{secret}"):
                    for body in bodies:
                        await client.post(f"{path}?q={secret}", json=body)
                    await client.post(path, content=f'{{"inputs": "{secret}', headers=JSON)
                    await client.post(path, json=bodies[0], headers={"x-request-id": f"{secret} "})

                async def broken(*args, **kwargs):
                    raise ValueError(f"broken at {secret}")

                client.service.results = broken
                answer = await client.post("/embed", json=bodies[0])
                assert (answer.status_code, answer.json()["error"]) == (500, "internal error")

    check()
    lines = log_lines()
    assert len(lines) > 60
    assert any(line.get("error") == "ValueError" and line["where"] for line in lines)
    assert secret not in json.dumps(lines)


def test_a_log_line_says_what_a_request_took(encoder, log_lines):
    @run
    async def check():
        async with running(encoder) as client:
            await client.post(
                "/embed", json={"inputs": ["so", "it was"]}, headers={"x-request-id": "r1"}
            )

    check()
    (line,) = [line for line in log_lines() if line.get("id") == "r1"]
    depths = encoder.depth(["so", "it was"])
    assert line["event"] == "request"
    assert (line["route"], line["status"], line["texts"]) == ("/embed", 200, 2)
    assert line["tokens"] == sum(len(d.tokens) for d in depths)
    assert line["rows"] == sum(d.cost.rows for d in depths)
    assert line["seconds"] >= line["queue_seconds"] >= 0


@run
async def test_the_full_are_told_when_to_come_again(encoder):
    engine = ManualEngine(lambda task, texts: [])
    async with running(encoder, engines=[engine], max_concurrent_requests=2) as client:
        import asyncio

        tasks = [
            asyncio.create_task(client.post("/embed", json={"inputs": "so"})) for _ in range(2)
        ]
        await engine.batch(0)
        await settled()
        answer = await client.post("/embed", json={"inputs": "so"})
        assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        # What needs no engine is answered all the same.
        assert (await client.get("/health")).status_code == 200
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("asked", ["2.5", "1000"])
def test_a_client_may_ask_for_less_time_than_the_operator_allows(encoder, asked):
    from support.serving import Clock

    @run
    async def check():
        import asyncio

        engine, clock = ManualEngine(), Clock()
        async with running(encoder, engines=[engine], clock=clock, timeout=30.0) as client:
            headers = {"x-request-timeout": asked}
            task = asyncio.create_task(
                client.post("/embed", json={"inputs": "so"}, headers=headers)
            )
            await engine.batch(0)
            clock.advance(min(float(asked), 30.0) - 0.1)
            await settled()
            assert not task.done()
            clock.advance(0.2)
            assert (await task).status_code == 504

    check()
