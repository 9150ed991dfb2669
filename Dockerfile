# The program tree-ssm in the environment of `make setup EXTRAS=train`, for CPUs or for CUDA:
#   docker build --tag tree-ssm:cpu .
#   docker build --tag tree-ssm:cuda --build-arg SYSTEM=cuda .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" tree-ssm:cpu train quadmamba/quadmamba-nano_digits
# For GPUs add `--gpus all` to the last, which needs NVIDIA's container toolkit. `--build-arg EXTRAS=all` installs everything.
ARG SYSTEM=cpu

FROM debian:bookworm-slim AS cpu

# A CUDA toolkit of the same major release as that of the pinned torch.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
ENV FORCE_CUDA=1

FROM ${SYSTEM}
ARG EXTRAS=train
# The system's packages are those of the image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tree-ssm
COPY . .
RUN make setup EXTRAS="$EXTRAS" && rm -rf build ~/.cache
# Any user may run it, and some libraries want to write into the home folder.
ENV PATH=/opt/tree-ssm/.venv/bin:$PATH HOME=/tmp
WORKDIR /work
ENTRYPOINT ["tree-ssm"]
CMD ["--help"]
