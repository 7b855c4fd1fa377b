"""One checkpoint in every form, and every place that it can lie at."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import run
from tests.remote.servers import TOKEN, Cdn, FileServer, Hub, serving

__all__ = ["run"]

RULES = {
    "version": 1,
    "rules": [
        {
            "id": "bounded",
            "tensors": "**.kernel",
            "constraint": "MaxNorm",
            "max_value": 17,
            "axis": 0,
        },
        {"id": "signs", "tensors": "**.bias", "constraint": "NonNeg"},
    ],
}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Ask twice more at most, and wait for a second."""
    monkeypatch.setenv("CKPTCLAMP_RETRIES", "2")
    monkeypatch.setenv("CKPTCLAMP_TIMEOUT", "1")


@pytest.fixture(scope="session")
def tensors():
    """Some megabytes of weights in several tensors, of which some violate `RULES`."""
    random = np.random.default_rng(7)
    kernels = {
        f"layers.{i}.kernel": random.normal(size=(260 + i, 500)).astype(np.float32)
        for i in range(8)
    }
    biases = {f"layers.{i}.bias": abs(random.normal(size=500)).astype(np.float16) for i in range(8)}
    return {**kernels, **biases}


@pytest.fixture(scope="session")
def single(tensors, tmp_path_factory):
    """One file."""
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def sharded(tensors, tmp_path_factory):
    """A set of twelve shards: its files, the index first."""
    return save_set(tensors, tmp_path_factory.mktemp("sharded"), 12)


def save_set(tensors, folder: Path, count: int) -> list[Path]:
    """Save `tensors` as `count` shards and an index."""
    names = list(tensors)
    weight_map: dict[str, str] = {}
    shards = []
    for number in range(count):
        shard = folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = names[number::count]
        save_file({name: tensors[name] for name in part}, shard)
        weight_map |= dict.fromkeys(part, shard.name)
        shards.append(shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return [index, *shards]


@pytest.fixture
def web():
    """A web server that serves ranges."""
    with serving(FileServer()) as server:
        yield server


@pytest.fixture
def https(tmp_path, monkeypatch):
    """A web server whose connections are encrypted; its authority is trusted by the environment."""
    x509 = pytest.importorskip("cryptography.x509")
    from tests.remote.certificates import certified

    authority, chain = certified(x509, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server = FileServer()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with serving(server):
        yield server


@pytest.fixture
def cdn():
    """The server on which a hub's large files lie."""
    with serving(Cdn()) as server:
        yield server


@pytest.fixture
def hub(cdn, monkeypatch):
    """A hub; the environment leads to it, with the token of a user."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    with serving(Hub(cdn)) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="session")
def s3_server():
    """A server of the S3 protocol."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A store of an empty bucket called ``models``, to which the environment leads."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="models")
    yield client
    for held in client.list_objects_v2(Bucket="models").get("Contents", ()):
        client.delete_object(Bucket="models", Key=held["Key"])
    client.delete_bucket(Bucket="models")
