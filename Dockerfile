# CPU:  docker build -t redraft .
# GPU:  docker build -t redraft:cuda --build-arg DEVICE=cuda .
# More: --build-arg EXTRAS=router has vllm-router in it too, ray has Ray Serve; docs/deploying.md.
# Run:  docker run -p 8000:8000 -v redraft:/var/lib/redraft redraft [flags of `redraft serve`]
#       On a CPU, --shm-size=1g --cap-add SYS_NICE lets vLLM bind its memory; with a GPU, --gpus all.
FROM python:3.11-slim

# g++ builds one dependency, and later what Triton or torch.compile generate.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 redraft \
    && install --directory --owner redraft --group redraft /opt/redraft /var/lib/redraft
USER 1000
WORKDIR /opt/redraft

# The dependencies come first: they change seldom, and so this layer is built seldom.
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1
COPY --chown=redraft pyproject.toml LICENSE ./
COPY --chown=redraft requirements requirements
COPY --chown=redraft tools/setup.py tools/setup.py
RUN python3.11 tools/setup.py --device "$DEVICE" --no-project
# Compiled now, not at each container's start. Some packages ship templates that are no valid Python: those may fail.
RUN .venv/bin/python -m compileall -q -j 0 .venv/lib/python3.11/site-packages > /dev/null 2>&1 || true

COPY --chown=redraft . .
ARG EXTRAS=""
RUN .venv/bin/python -m pip install --no-deps --no-build-isolation . \
    && if [ -n "$EXTRAS" ]; then \
        .venv/bin/python -m pip install --constraint "requirements/$DEVICE.lock" --no-build-isolation ".[$EXTRAS]"; \
    fi \
    && rm -rf build ./*.egg-info

# Models live in a volume. A new one starts with the default model, so that the image serves without a network.
ENV PATH="/opt/redraft/.venv/bin:$PATH" \
    REDRAFT_CACHE=/var/lib/redraft \
    HF_HOME=/var/lib/redraft/huggingface \
    REDRAFT_HOST=0.0.0.0 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN redraft models prepare
VOLUME /var/lib/redraft

WORKDIR /home/redraft
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"REDRAFT_PORT\", 8000)}/health', timeout=4)"]
ENTRYPOINT ["redraft", "serve"]
