"""Encodes a small corpus with Ray Data and asks a Ray Serve deployment, on a local Ray.

    pip install 'albert_act_fast[ray]'
    python examples/ray_cluster.py

On a cluster the same calls run with more actors and replicas: `ray.init("auto")`.
"""

from __future__ import annotations

import argparse
import json
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import ray
from ray import serve

from albert_act_fast import TextEncoder
from albert_act_fast.ray import deployment, encode_dataset

TEXTS = ["Call me Ishmael.", "It was the best of times.", "A lump in the middle stirred."] * 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", type=int, default=2, help="that Ray may use")
    parser.add_argument("--port", type=int, default=8000, help="of Ray Serve")
    arguments = parser.parse_args()
    ray.init(num_cpus=arguments.cpus, include_dashboard=False, log_to_driver=False)
    try:
        expected = TextEncoder.from_pretrained("sentence").encode(TEXTS, normalize=True)

        corpus = ray.data.from_items([{"text": text, "id": i} for i, text in enumerate(TEXTS)])
        encoded = encode_dataset(corpus, batch_size=16, encode={"normalize": True})
        rows = sorted(encoded.iter_rows(), key=lambda row: row["id"])
        found = np.stack([row["embedding"] for row in rows])
        print("data   rows", len(rows), "off by", f"{np.abs(found - expected).max():.0e}")

        serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
        serve.run(deployment("sentence", autoscaling_config={"min_replicas": 1, "max_replicas": 2}))
        url = f"http://127.0.0.1:{arguments.port}/embed"
        body = json.dumps({"inputs": TEXTS[:3]}).encode()
        request = Request(url, body, {"content-type": "application/json"})
        with build_opener(ProxyHandler({})).open(request) as answer:
            found = np.array(json.load(answer))
        print("serve  rows", len(found), "off by", f"{np.abs(found - expected[:3]).max():.0e}")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
