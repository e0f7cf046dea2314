"""Clients of other makers, unchanged."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from support.serving import listening, run, running

TEXTS = ["so it was", "the best of times"]


@run
async def test_openai(encoder):
    openai = pytest.importorskip("openai", reason="needs the package openai")
    async with running(encoder, api_key="key") as client:
        asked = openai.AsyncOpenAI(
            base_url="http://service/v1", api_key="key", http_client=client, max_retries=0
        )
        expected = encoder.encode(TEXTS, normalize=True)
        # Its own default is base64.
        for settings in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            found = await asked.embeddings.create(input=TEXTS, model="any", **settings)
            rows = [one.embedding for one in found.data]
            if settings.get("encoding_format") != "base64":
                np.testing.assert_allclose(rows, expected, atol=2e-6)
            assert found.usage.total_tokens > 0
        with pytest.raises(openai.UnprocessableEntityError, match="got token ids in place 0"):
            await asked.embeddings.create(input=[[5, 6]], model="any")
        with pytest.raises(openai.UnprocessableEntityError, match="expected 48, which the model"):
            await asked.embeddings.create(input="so", model="any", dimensions=7)
        wrong = asked.with_options(api_key="wrong")
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer"):
            await wrong.embeddings.create(input="so", model="any")


@run
async def test_openai_comes_again_when_it_is_told_to(encoder):
    openai = pytest.importorskip("openai", reason="needs the package openai")
    async with running(encoder) as client:
        asked = openai.AsyncOpenAI(
            base_url="http://service/v1", api_key="key", http_client=client, max_retries=1
        )
        waits = []

        async def sleep(options, *args, **kwargs):
            waits.append(asked._calculate_retry_timeout(2, options, kwargs["response"].headers))

        asked._sleep_for_retry = sleep
        batcher, refusals = client.service.batcher, iter([True])
        retry_after, run_ = batcher.retry_after, batcher.run

        async def full_once(*args):
            if next(refusals, False):
                batcher._max_queue_tokens, before = 3, batcher._max_queue_tokens
                batcher.queue.tokens += 3
                try:
                    return await run_(*args)
                finally:
                    batcher.queue.tokens -= 3
                    batcher._max_queue_tokens = before
            return await run_(*args)

        batcher.run = full_once
        found = await asked.embeddings.create(input="so", model="any")
        assert len(found.data) == 1
        assert waits == [retry_after()]


def test_hugging_face_hub(encoder, classifier, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    # What it asks is on this machine.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with listening(encoder) as url:
        client = InferenceClient(model=f"{url}/embed")
        rows = client.feature_extraction(TEXTS[0], normalize=False)
        np.testing.assert_allclose(rows, encoder.encode(TEXTS[:1]), atol=2e-6)
        about = httpx.get(f"{url}/info", timeout=None, trust_env=False).json()
        assert about["max_input_length"] == encoder.max_tokens
    with listening(classifier) as url:
        found = InferenceClient(model=f"{url}/predict").text_classification([[TEXTS[0]]])
        expected = classifier.classify(TEXTS[0]).scores
        assert {one.label: one.score for one in found} == pytest.approx(expected, abs=2e-6)


@pytest.mark.slow
def test_langchain(encoder):
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    with listening(encoder) as url:
        embeddings = langchain_openai.OpenAIEmbeddings(
            base_url=f"{url}/v1",
            api_key="none",
            model="sentence",
            check_embedding_ctx_length=False,
        )
        expected = encoder.encode(TEXTS, normalize=True)
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=2e-6)
        np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=2e-6)


@pytest.mark.slow
def test_llama_index(encoder):
    reason = "needs llama-index-embeddings-text-embeddings-inference"
    inference = pytest.importorskip(
        "llama_index.embeddings.text_embeddings_inference", reason=reason
    )
    with listening(encoder) as url:
        embeddings = inference.TextEmbeddingsInference(model_name="sentence", base_url=url)
        expected = encoder.encode(TEXTS, normalize=True)
        found = embeddings.get_text_embedding_batch(TEXTS)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        found = embeddings.get_query_embedding(TEXTS[0])
        np.testing.assert_allclose(found, expected[0], atol=2e-6)
