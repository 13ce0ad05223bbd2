# `cifarlab serve` in a container: on the processor, without root, installed from the wheel.
#
#     docker build -t cifarlab-serve .
#     docker run --rm -p 8643:8643 -e CIFARLAB_TOKEN="$(openssl rand -hex 24)" cifarlab-serve pretrained:fastnet
#
# docs/guides/serve.md has more. TORCH_INDEX is the index with the CPU build of PyTorch; without it the image is far
# larger, because it holds the libraries for GPUs.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
# Extras to install: "board,onnx" also serves .onnx files.
ARG EXTRAS="board"
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --no-deps -c /tmp/constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi \
    && wheel="$(echo /tmp/wheels/*.whl)" \
    && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[${EXTRAS}]" \
    && useradd --create-home --uid 1000 cifarlab
USER cifarlab
WORKDIR /home/cifarlab
# Runs are mounted at /runs, which may be read-only.
ENV CIFARLAB_RUNS=/runs PYTHONUNBUFFERED=1
EXPOSE 8643
HEALTHCHECK --interval=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8643/health', timeout=5)"]
ENTRYPOINT ["cifarlab", "serve", "--host", "0.0.0.0"]
CMD ["pretrained:fastnet"]
