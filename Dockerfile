# syntax=docker/dockerfile:1
# The service on a CPU. Build: docker build -t albert-act-fast --build-arg TORCH_INDEX_URL=... .
# Run: docker run --rm -p 127.0.0.1:8080:8080 albert-act-fast
FROM python:3.12-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# The operators need no torch to be built; every instruction set is in them.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# The index of PyTorch's builds without CUDA, a tenth of the size, as its installation page names it.
ARG TORCH_INDEX_URL=
COPY requirements/run.txt requirements/serve.txt /requirements/
RUN grep '^torch==' /requirements/run.txt >/requirements/torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        --requirement /requirements/torch.txt \
    && pip install --no-cache-dir --requirement /requirements/serve.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl \
    && useradd --create-home --uid 10001 service
USER 10001
WORKDIR /home/service
EXPOSE 8080
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health')"]
# What stops a container waits so long for what was accepted: docker stop --time 70
STOPSIGNAL SIGTERM
ENTRYPOINT ["albert-act-fast", "serve", "--host", "0.0.0.0", "--port", "8080"]
