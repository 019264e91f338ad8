# The image of jobs. Both builders must accept it: the classic one (through the SDK) and BuildKit (Compose).
#
#   BASE_IMAGE  another base: any Debian or Ubuntu image with or without Python >= 3.11. torch's wheels contain
#               CUDA, cuDNN and NCCL, so a `-base` image and the host's driver are enough.
#   EXTRA_CA    a company's CA certificates: a PEM file or a folder of them, inside the build context
#   WHEELS      a folder of wheels, preferred over the index, inside the build context
#   WITH        `-vllm` for an image with vLLM, `-eval` for one with lm-eval; empty for one without
#   EVAL        `1` for an image with lm-eval, as `WITH=-eval`, that shares the layers of the one without
#   GGUF        `1` for an image with llama.cpp, which `dimba export --gguf` needs; empty for one without
#   PINS        `tested` versions, or the `latest` releases that pip resolves
#   RESOLVED    the day of these: another one resolves them again
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
FROM ${BASE_IMAGE}
ARG EXTRA_CA=docker/certs
ARG WHEELS=docker/wheels
ARG WITH=

# Appended rather than installed, to keep the base image's own bundle complete.
COPY ${EXTRA_CA} /tmp/certs/
RUN mkdir -p /etc/ssl/certs && find /tmp/certs -name '*.crt' -o -name '*.pem' | sort | xargs -r cat >> /etc/ssl/certs/ca-certificates.crt
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt

RUN if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
      apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3 python3-venv \
      && find /tmp/certs -name '*.crt' -o -name '*.pem' | sort | xargs -r cat >> /etc/ssl/certs/ca-certificates.crt \
      && rm -rf /var/lib/apt/lists/*; \
    fi

COPY ${WHEELS} /tmp/wheels/
COPY docker/requirements*.txt docker/constraints*.txt /tmp/
# `latest` leaves torch, whose CUDA the host's driver must suit, vLLM, which needs that torch, and what reads a spec.
ARG PINS=tested
ARG RESOLVED=
RUN lists=${WITH#-eval} \
 && if [ "$PINS" = latest ]; then \
      sed -Ei '/^(torch|vllm|jsonschema|pydantic|ruamel\.yaml)==/!s/==.*//' /tmp/requirements*.txt \
      && : > /tmp/constraints${lists}.txt; \
    fi \
 && python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels \
      -r /tmp/requirements${lists}.txt -c /tmp/constraints${lists}.txt \
 && rm -rf /tmp/certs /tmp/constraints*.txt /tmp/requirements*.txt

# Liger's kernels are for Triton, which torch's CUDA wheels bring along. Jobs do without them where no index has them.
RUN if /opt/venv/bin/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("triton"))'; then \
      /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels --retries 1 --no-deps \
        "liger-kernel$([ "$PINS" = latest ] || echo ==0.8.5)" || echo "liger-kernel is not installed: jobs do without it"; \
    fi

# Triton, a part of torch's CUDA wheels, compiles C code when the first kernel starts.
RUN if ! /opt/venv/bin/python -c 'import importlib.util, os, shutil, sys, sysconfig; \
      header = os.path.join(sysconfig.get_paths()["include"], "Python.h"); \
      sys.exit(bool(importlib.util.find_spec("triton")) and not (shutil.which("gcc") and os.path.exists(header)))'; then \
      apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi

# lm-evaluation-harness (MIT), after the packages above, which all images share and which its lists leave as they are.
ARG EVAL=
COPY docker/eval /tmp/eval/
RUN if [ -n "$EVAL" ] || [ "$WITH" = -eval ]; then \
      if [ "$PINS" = latest ]; then \
        sed -i 's/==.*//' /tmp/eval/requirements.txt; /opt/venv/bin/pip freeze --all > /tmp/eval/constraints.txt; \
      fi; \
      /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels \
        -r /tmp/eval/requirements.txt -c /tmp/eval/constraints.txt; \
    fi \
 && rm -rf /tmp/eval

# llama.cpp (MIT): from a wheel in docker/llama, or else compiled from the sources that PyPI has, some minutes. After the
# packages above, which all images share.
ARG GGUF=
COPY docker/llama /tmp/llama/
RUN if [ -n "$GGUF" ]; then set -e; \
      ls /tmp/llama/dimba_llama-*.whl >/dev/null 2>&1 \
        || for tool in cmake g++ make; do dpkg -s $tool >/dev/null 2>&1 || echo $tool; done > /tmp/llama/tools; \
      if [ -s /tmp/llama/tools ]; then \
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(cat /tmp/llama/tools); \
      fi; \
      /opt/venv/bin/python /tmp/llama/make_llama.py --folder /tmp/llama --wheel-only; \
      /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps /tmp/llama/dimba_llama-*.whl; \
      /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --find-links /tmp/wheels \
        -r /tmp/llama/requirements.txt; \
      if [ -s /tmp/llama/tools ]; then \
        apt-get purge -y --auto-remove $(cat /tmp/llama/tools) && apt-get clean && rm -rf /var/lib/apt/lists/*; \
      fi; \
    fi; \
    rm -rf /tmp/llama

ENV DIMBA_PINS=$PINS \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/dimba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Any uid may run the image, so its home is writable by any uid.
RUN mkdir -m 1777 /home/dimba && mkdir /opt/dimba
WORKDIR /opt/dimba
COPY dimba /opt/dimba/dimba
COPY scripts /opt/dimba/scripts
RUN python -m compileall -q /opt/dimba

ENV HOME=/home/dimba
LABEL org.opencontainers.image.title="dimba" \
      org.opencontainers.image.description="The environment of dimba jobs, which fine-tune language models" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
CMD ["python", "/opt/dimba/scripts/finetuning/finetune_sft.py", "--help"]
