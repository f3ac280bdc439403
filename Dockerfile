# TwinSeg in a container, from constraints.txt.
#   CPU:   docker build -t twinseg .
#   CUDA:  docker build -t twinseg --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .    (docker run --gpus all)
#   docker run --rm -v "$PWD:/work" twinseg train fast_scnn_toy_street
FROM python:3.11-slim-bookworm

# Wheels of PyTorch: for a CPU alone, or with the CUDA that the host's driver takes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=pytorch,mindspore,deploy,coco

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/twinseg
COPY . .
# torch.compile needs g++. MindSpore is for the CPU: its wheels for CUDA end at 11.6. Debian's packages are not pinned, since it
# removes old versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[$EXTRAS]" \
    && useradd --create-home --uid 1000 user

USER 1000
WORKDIR /work
ENTRYPOINT ["twinseg"]
CMD ["--help"]
