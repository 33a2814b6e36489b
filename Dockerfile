# focusdoc serve in a container, with a key on each line of keys.txt:
#   docker build -t focusdoc .
#   docker run --rm -v focusdoc:/cache focusdoc models install     # once: the models, into the volume
#   docker run -p 8000:8000 -v focusdoc:/cache -v ./keys.txt:/keys.txt:ro focusdoc
# Memory limits of the container are kept to.
FROM python:3.12-slim AS build
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY focusdoc focusdoc
RUN /venv/bin/pip install --no-cache-dir torch==2.13.0 --index-url $TORCH_INDEX \
 && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[server,structured]'

FROM python:3.12-slim
RUN useradd --create-home reader && mkdir /cache && chown reader /cache
COPY --from=build /venv /venv
USER reader
ENV FOCUSDOC_CACHE=/cache PATH=/venv/bin:$PATH
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/health').raise_for_status()"]
ENTRYPOINT ["focusdoc"]
CMD ["serve", "--host", "0.0.0.0", "--api-key-file", "/keys.txt"]
