# The environment of requirements.lock, for a cluster or a machine that runs containers. The project
# itself is mounted, with its git repository and its results:
#
#     docker build -t glmtune .
#     docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" -v "$PWD":/glmtune glmtune \
#         snakemake --cores 8 results/report.md
#
# CUDA comes with torch, the driver with the NVIDIA Container Toolkit.
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory /glmtune

WORKDIR /glmtune
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY workflow/scripts workflow/scripts
# Editable: `import glmtune` finds the project that is mounted here.
RUN pip install --no-cache-dir --constraint requirements.lock --editable ".[serve]"

# `utility` brings nvidia-smi, by which jobs find their GPU. HOME: any user may write its caches.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/tmp
CMD ["snakemake", "results/report.md"]
