# Ray nodes with the engines: a head, a worker, and the serving host.
# From the repository's root:
#   docker build -f infra/deploy/ray.Dockerfile -t aiaas-ray .
#   docker build -f infra/deploy/ray.Dockerfile --build-arg ACCELERATOR=cu128 -t aiaas-ray:cuda .

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG RAY_VERSION=2.60.0
# `cpu`, or the CUDA release that torch is built for: its wheels bring CUDA's libraries along, and the
# driver comes from the machine.
ARG ACCELERATOR=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential
RUN python -m venv /opt/aiaas
WORKDIR /source
# Requirements first: they change less often than the code, and their layers are kept.
COPY pyproject.toml infra/deploy/requirements.py ./
RUN python requirements.py pyproject.toml > all.txt && grep '^torch[<>=]' all.txt > torch.txt \
    && /opt/aiaas/bin/pip install --index-url "https://download.pytorch.org/whl/${ACCELERATOR}" -r torch.txt
RUN /opt/aiaas/bin/pip install "ray[serve]==${RAY_VERSION}" -r all.txt
COPY . .
RUN /opt/aiaas/bin/pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim-bookworm
RUN useradd --uid 1000 --create-home aiaas
COPY --from=build /opt/aiaas /opt/aiaas
# KubeRay starts Ray through a shell, which as a login shell would forget the PATH below.
RUN ln -s /opt/aiaas/bin/ray /usr/local/bin/ray
# Replicas and Serve's controller inherit what their node was started with: these are the values of
# serving/ray_environment.py that both ends of a call must agree on, or that a node is slower without.
ENV PATH=/opt/aiaas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIAAS_HOME=/tmp/aiaas \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=67108864 \
    RAY_SERVE_ENABLE_DIRECT_INGRESS=0 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0
USER 1000:1000
WORKDIR /home/aiaas
# Whether a node's own raylet answers; where no agent runs, the health check is set by whoever starts it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 CMD ["python", "-c", \
    "import urllib.request as web; web.urlopen('http://127.0.0.1:52365/api/healthz', timeout=4)"]
CMD ["python", "-m", "serving.host"]
