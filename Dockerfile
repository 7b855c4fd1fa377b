# docker build -t ckptclamp .
# docker run --rm --network none --read-only -v "$PWD:/data:ro" ckptclamp audit model.safetensors
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ckptclamp ckptclamp
RUN python -m venv /opt/ckptclamp && /opt/ckptclamp/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/ckptclamp /opt/ckptclamp
RUN useradd --system --no-create-home ckptclamp
USER ckptclamp
WORKDIR /data
ENTRYPOINT ["/opt/ckptclamp/bin/ckptclamp"]
CMD ["--help"]
