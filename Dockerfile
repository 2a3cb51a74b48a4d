# fairbench on a CPU: docker build -t fairbench . && docker run --rm -v "$PWD:/work" fairbench run digits --quick
#
# For GPUs build with --build-arg INDEX=https://pypi.org/simple, which has PyTorch's CUDA build, and run with --gpus all.
FROM python:3.12-slim-bookworm

# Attacks on small networks compile to C (docs/performance.md).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ARG INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$INDEX" torch torchvision

COPY . /opt/fairbench
RUN pip install --no-cache-dir /opt/fairbench \
    && rm -rf /opt/fairbench \
    && useradd --create-home runner

USER runner
WORKDIR /work
ENV OMP_NUM_THREADS=1
ENTRYPOINT ["fairbench"]
CMD ["--help"]
