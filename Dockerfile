# docker build -t ckptclamp .
# docker run --rm --network none --read-only -v "$PWD:/data:ro" ckptclamp audit model.safetensors
FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS build
# The compiler stays in this stage, and the base's digest says of which Debian it is.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY ci/requirements.txt ci/build-requirements.txt ci/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r ci/build-requirements.txt \
    && python -m venv /opt/ckptclamp \
    && /opt/ckptclamp/bin/pip install --no-cache-dir --require-hashes -r ci/requirements.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY ci/man_page.py ci/
COPY ckptclamp ckptclamp
RUN CKPTCLAMP_REQUIRE_KERNELS=1 /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/ckptclamp/bin/pip install --no-cache-dir --no-deps /dist/ckptclamp-*.whl

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
LABEL org.opencontainers.image.title="ckptclamp" \
      org.opencontainers.image.description="Audit and fix the weight constraints of neural-network checkpoints" \
      org.opencontainers.image.url="https://ckptclamp.github.io/ckptclamp/" \
      org.opencontainers.image.documentation="https://ckptclamp.github.io/ckptclamp/" \
      org.opencontainers.image.source="https://github.com/ckptclamp/ckptclamp" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim" \
      org.opencontainers.image.base.digest="sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea"
COPY --from=build /opt/ckptclamp /opt/ckptclamp
RUN useradd --system --no-create-home --uid 999 ckptclamp
USER 999
WORKDIR /data
ENTRYPOINT ["/opt/ckptclamp/bin/ckptclamp"]
CMD ["--help"]
