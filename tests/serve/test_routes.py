"""What each route answers, beside what the encoder itself says."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from support.serving import ManualEngine, run, running

from albert_act_fast.serve import ServeSettings, create_app

TEXTS = ["so it was", "the best of times , quiet .", "monkeys"]
LONG = "word " * 100


async def post(client, path, document, status=200, **kwargs):
    answer = await client.post(path, json=document, **kwargs)
    assert answer.status_code == status, answer.text
    return answer.json()


@run
async def test_embed(encoder):
    async with running(encoder) as client:
        for normalize in (True, False):
            rows = await post(client, "/embed", {"inputs": TEXTS, "normalize": normalize})
            expected = encoder.encode(TEXTS, normalize=normalize)
            np.testing.assert_allclose(rows, expected, atol=2e-6)
        one = await post(client, "/embed", {"inputs": TEXTS[0]})
        np.testing.assert_allclose(one, encoder.encode(TEXTS[:1], normalize=True), atol=2e-6)


@run
async def test_openai(encoder):
    async with running(encoder) as client:
        request = {"input": TEXTS, "model": "whatever", "user": "me"}
        found = await post(client, "/v1/embeddings", request)
        expected = encoder.encode(TEXTS, normalize=True)
        assert [one["index"] for one in found["data"]] == [0, 1, 2]
        np.testing.assert_allclose([d["embedding"] for d in found["data"]], expected, atol=2e-6)
        tokens = sum(len(encoder.depth(text).tokens) for text in TEXTS)
        assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        assert (found["object"], found["model"]) == ("list", "TextEncoder")
        packed = await post(client, "/v1/embeddings", {**request, "encoding_format": "base64"})
        for one, plain in zip(packed["data"], found["data"], strict=True):
            row = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
            np.testing.assert_allclose(row, plain["embedding"], atol=1e-6)


@run
async def test_predict(classifier):
    async with running(classifier) as client:
        single = await post(client, "/predict", {"inputs": TEXTS[0]})
        batch = await post(client, "/predict", {"inputs": [[text] for text in TEXTS]})
        assert [one["label"] for one in batch[0]] == [one["label"] for one in single]
        for found, expected in zip(batch, classifier.classify(TEXTS), strict=True):
            scores = {entry["label"]: entry["score"] for entry in found}
            assert scores == pytest.approx(expected.scores, abs=2e-6)
            assert found[0]["label"] == expected.label
        raw = await post(client, "/predict", {"inputs": TEXTS[0], "raw_scores": True})
        logits = np.array([entry["score"] for entry in raw])
        softmax = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(softmax, [entry["score"] for entry in single], atol=1e-6)


@run
async def test_predict_of_a_model_without_classes(encoder):
    async with running(encoder) as client:
        answer = await post(client, "/predict", {"inputs": "so"}, 424)
        assert answer == {
            "error": "the model of this service, AlbertActModel, cannot do that",
            "error_type": "Backend",
        }


@run
async def test_depth_and_one_bad_text_alone(encoder):
    async with running(encoder) as client:
        found = await post(client, "/depth", {"inputs": [TEXTS[0], "", LONG, TEXTS[1]]})
        assert [one.get("error_type") for one in found] == [None, "Empty", "Validation", None]
        assert "inputs[2]: got " in found[2]["error"]
        for text, one in ((TEXTS[0], found[0]), (TEXTS[1], found[3])):
            expected = encoder.depth(text)
            tokens = one["tokens"]
            assert [t["iterations"] for t in tokens] == expected.iterations
            assert [t["id"] for t in tokens] == expected.input_ids
            assert [t["text"] for t in tokens] == expected.tokens
            assert [t["special"] for t in tokens] == [True, *[False] * (len(tokens) - 2), True]
            own = [(t["start"], t["stop"]) for t in tokens[1:-1]]
            assert own == expected.offsets[1:-1]
            assert one["rows"] == sum(expected.iterations)
        cut = await post(client, "/depth", {"inputs": LONG, "truncate": True})
        assert (len(cut[0]["tokens"]), cut[0]["truncated"]) == (40, True)


@run
async def test_tokenize_counts_what_is_too_long_for_the_model(encoder):
    async with running(encoder) as client:
        (found,) = await post(client, "/tokenize", {"inputs": LONG})
        assert len(found) == 102
        assert [t["special"] for t in (found[0], found[1], found[-1])] == [True, False, True]
        assert [LONG[t["start"] : t["stop"]].strip() for t in found[1:-1]] == ["word"] * 100
        (own,) = await post(client, "/tokenize", {"inputs": LONG, "add_special_tokens": False})
        assert own == found[1:-1]


@run
async def test_info_health_and_metrics(encoder):
    async with running(encoder, max_client_batch_size=7) as client:
        info = (await client.get("/info")).json()
        assert info["max_input_length"] == 40
        assert info["max_client_batch_size"] == 7
        assert info["iteration_limit"] == 12
        assert info["model_type"] == {"embedding": {"pooling": "mean"}}
        health = await client.get("/health")
        assert (health.status_code, health.content) == (200, b"")
        found = await post(client, "/depth", {"inputs": TEXTS})
        await post(client, "/embed", {"inputs": [""]}, 422)
        text = (await client.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        iterations = [t["iterations"] for one in found for t in one["tokens"]]
        rows = sum(iterations)
        assert float(values["albert_act_fast_tokens_total"]) == len(iterations)
        assert float(values["albert_act_fast_rows_computed_total"]) == rows
        assert float(values["albert_act_fast_rows_saved_total"]) == 12 * len(iterations) - rows
        assert float(values["albert_act_fast_token_iterations_count"]) == len(iterations)
        assert float(values["albert_act_fast_token_iterations_sum"]) == rows
        below = sum(n <= 3 for n in iterations)
        assert float(values['albert_act_fast_token_iterations_bucket{le="3.0"}']) == below
        assert float(values["te_batch_next_size_sum"]) == 3
        assert float(values['te_request_failure_total{err="Empty"}']) == 1
        assert float(values['albert_act_fast_responses_total{route="/depth",status="200"}']) == 1
        assert float(values["te_queue_size"]) == 0
        assert float(values["albert_act_fast_workers"]) == 1


@run
async def test_health_without_an_engine(encoder):
    engine = ManualEngine()
    async with running(encoder, engines=[engine]) as client:
        engine.alive = False
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")
        assert answer.headers["retry-after"] == "1"


@run
async def test_the_schema_has_every_route_and_its_examples_work(encoder, classifier):
    async with running(classifier) as client:
        schema = (await client.get("/openapi.json")).json()
        assert set(schema["paths"]) == {
            *("/embed", "/v1/embeddings", "/predict", "/tokenize", "/depth"),
            *("/info", "/health", "/metrics"),
        }
        for path, methods in schema["paths"].items():
            if "post" not in methods:
                continue
            content = methods["post"]["requestBody"]["content"]["application/json"]
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            properties = schema["components"]["schemas"][name]["properties"]
            field = "input" if path == "/v1/embeddings" else "inputs"
            assert properties[field]["examples"]
            for example in properties[field]["examples"]:
                await post(client, path, {field: example})


@run
async def test_truncate_is_what_the_operator_says_where_a_request_does_not(encoder):
    async with running(encoder, truncate=True) as client:
        await post(client, "/embed", {"inputs": LONG})
        await post(client, "/embed", {"inputs": LONG, "truncate": False}, 413)


@run
async def test_a_key_is_asked_for(encoder):
    async with running(encoder, api_key="opensesame") as client:
        for header in (None, "opensesame", "Bearer", "Bearer wrong", "Basic opensesame"):
            headers = {} if header is None else {"authorization": header}
            for method, path in (("POST", "/embed"), ("GET", "/info"), ("GET", "/metrics")):
                answer = await client.request(method, path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        headers = {"authorization": "Bearer opensesame"}
        await post(client, "/embed", {"inputs": "so"}, headers=headers)
        for path in ("/health", "/", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


def test_the_key_is_not_shown_with_the_settings():
    assert "opensesame" not in repr(ServeSettings(api_key="opensesame"))


@run
async def test_cross_origin_requests_only_from_origins_that_the_operator_names(encoder):
    ask = {
        "origin": "https://one.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    async with running(encoder) as client:
        answer = await client.options("/embed", headers=ask)
        assert "access-control-allow-origin" not in answer.headers
    async with running(encoder, cors_origins=("https://one.example",), api_key="k") as client:
        answer = await client.options("/embed", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://one.example"
        refused = await client.post("/embed", headers={"origin": "https://one.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://one.example"
        other = await client.options("/embed", headers={**ask, "origin": "https://two.example"})
        assert "access-control-allow-origin" not in other.headers


@run
async def test_request_ids(encoder):
    async with running(encoder) as client:
        answer = await client.get("/info", headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
        for bad in ("a b", "x" * 65, '"', ""):
            answer = await client.get("/info", headers={"x-request-id": bad})
            assert len(answer.headers["x-request-id"]) == 32


@run
async def test_the_page_is_complete_in_itself(encoder):
    async with running(encoder) as client:
        answer = await client.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http" not in answer.text
    async with running(encoder, page=False) as client:
        assert (await client.get("/")).status_code == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "workers: got -1, expected a whole number from 0"),
        ({"max_batch_tokens": 0}, "max_batch_tokens: got 0, expected a whole number from 1"),
        ({"max_queue_tokens": 1.5}, "max_queue_tokens: got 1.5"),
        ({"timeout": 0}, "timeout: got 0, expected a number of seconds"),
        ({"timeout": float("nan")}, "timeout: got nan"),
        ({"api_key": " "}, "api_key: got an empty key"),
        ({"cors_origins": "*"}, "cors_origins: got a string"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        ServeSettings(**settings)


def test_arguments_of_create_app():
    with pytest.raises(TypeError, match="model: got int"):
        create_app(3)


@run
async def test_numbers_come_as_numbers(encoder):
    async with running(encoder) as client:
        answer = await client.post("/embed", json={"inputs": "so"})
        (row,) = json.loads(answer.content)
        np.testing.assert_array_equal(
            np.array(row, dtype=np.float32), encoder.encode("so", normalize=True)
        )
