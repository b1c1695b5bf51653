# The gateway with its vision engine. From the root of the repository:
#   docker build -f deploy/gateway.Dockerfile -t r2sm-gateway:0.1.0 --build-arg TORCH_INDEX=… .
#   docker build -f deploy/gateway.Dockerfile -t r2sm-gateway:0.1.0-cuda --build-arg VARIANT=cuda .
# TORCH_INDEX is PyTorch's package index for the CPU build, which is on no general one; VARIANT=cuda needs none.
# The only weights inside are the demo bundle's; others are mounted, and named in R2SM_BUNDLE.

FROM python:3.11.11-slim-bookworm@sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5 AS build
ARG VARIANT=cpu
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/r2sm
COPY deploy/constraints-cpu.txt deploy/constraints-gpu.txt deploy/
COPY pyproject.toml README.md LICENSE ./
COPY engines engines
COPY loadtests loadtests
COPY server server
RUN set -eu; \
    case "$VARIANT" in \
    cpu) pins=deploy/constraints-cpu.txt; packages="torch==2.13.0+cpu openvino" ;; \
    cuda) pins=deploy/constraints-gpu.txt; packages="torch==2.13.0" ;; \
    *) echo "VARIANT is cpu or cuda, not $VARIANT" >&2; exit 2 ;; \
    esac; \
    /opt/r2sm/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint "$pins" $packages ".[tracing,loadtests]"; \
    /opt/r2sm/bin/pip uninstall --yes pip

FROM python:3.11.11-slim-bookworm@sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="r2sm-gateway" \
      org.opencontainers.image.description="Selective-mask segmentation: gateway and vision engine" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.11-slim-bookworm" \
      org.opencontainers.image.base.digest="sha256:081075da77b2b55c23c088251026fb69a7b2bf92471e491ff5fd75c192fd38e5" \
      r2sm.variant="$VARIANT"
RUN groupadd --gid 10001 r2sm && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /scratch r2sm \
    && install -d -o 10001 -g 10001 /scratch
COPY --from=build /opt/r2sm /opt/r2sm
ENV PATH=/opt/r2sm/bin:$PATH HOME=/scratch PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    R2SM_HOST=0.0.0.0 R2SM_PORT=8000 R2SM_CACHE_DIR=/scratch/vision
USER 10001:10001
WORKDIR /scratch
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["r2sm"]
CMD ["serve"]
