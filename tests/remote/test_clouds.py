"""Google's and Azure's protocols, against their emulators, where one is on the path.

`azurite-blob` is in npm's package azurite; fake-gcs-server is one file. It knows Google's JSON API, and of
the XML API reading alone; what writes is tried with a server of our own (`tests.remote.google`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from email.utils import formatdate
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptclamp
from ckptclamp.applying.apply import ApplyOptions
from ckptclamp.checkpoints.remote.address import Address
from ckptclamp.checkpoints.remote.stores import bucket
from ckptclamp.checkpoints.remote.writing import upload
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import ChangedError, MissingError, NotWrittenError, UsageError
from tests.remote.conftest import RULES
from tests.remote.google import Google
from tests.remote.servers import serving
from tests.remote.test_reading import audited

obstore = pytest.importorskip("obstore")

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""What every emulator of Azure knows, and no real account."""


@contextmanager
def emulator(name, *options, port):
    """Run an emulator until it is no longer used; skip the test where it is not installed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    with subprocess.Popen(
        [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def free_port():
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def asked(url, method, body=None, **headers):
    """Make one request, and be content with its success."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url, body, named, method=method)):
        pass


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    """A server of Azure's protocol with an empty container called ``models``."""
    port = free_port()
    where = ("--location", str(tmp_path_factory.mktemp("azurite")), "--blobPort", str(port))
    with emulator("azurite-blob", "--skipApiVersionCheck", *where, port=port) as url:
        about = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        shown = "".join(f"{name}:{value}\n" for name, value in about.items())
        place = f"/{ACCOUNT}/{ACCOUNT}/models\nrestype:container"
        text = "PUT" + 12 * "\n" + shown + place
        mac = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        signed = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
        about |= {"Authorization": signed, "Content-Length": "0"}
        asked(f"{url}/{ACCOUNT}/models?restype=container", "PUT", **about)
        yield url


@pytest.fixture
def azure(azurite, monkeypatch):
    """The address of a container, to which the environment leads, and what puts objects there."""
    monkeypatch.setenv("CKPTCLAMP_TIMEOUT", "20")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{azurite}/{ACCOUNT}")
    return "az://models", lambda key, data: obstore.put(store("az://models"), key, data)


@pytest.fixture(scope="module")
def fake_gcs():
    """A server of Google's protocol with an empty bucket called ``models``."""
    port = free_port()
    options = ("-scheme", "http", "-backend", "memory", "-port", str(port))
    public = ("-host", "127.0.0.1", "-public-host", f"127.0.0.1:{port}")
    with emulator("fake-gcs-server", *options, *public, port=port) as url:
        body = json.dumps({"name": "models"}).encode()
        asked(f"{url}/storage/v1/b?project=p", "POST", body, Content_Type="application/json")
        yield url


@pytest.fixture
def google(fake_gcs, monkeypatch):
    """As `azure`."""
    lead_to(fake_gcs, monkeypatch)

    def put(key, data):
        place = f"{fake_gcs}/upload/storage/v1/b/models/o?uploadType=media&name={quote(key, '')}"
        asked(place, "POST", data, Content_Type="application/octet-stream")

    return "gs://models", put


def lead_to(url, monkeypatch):
    """Let the environment lead to a server of Google's protocol, without credentials."""
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": ""}
    account |= {"private_key": "", "private_key_id": ""}
    monkeypatch.setenv("CKPTCLAMP_TIMEOUT", "20")
    monkeypatch.setenv("GOOGLE_BASE_URL", url)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))


@pytest.fixture
def google_writing(monkeypatch):
    """As `azure`; the server of our own, whose bucket has a name of its own: stores are kept by it."""
    with serving(Google()) as server:
        lead_to(server.url, monkeypatch)
        yield "gs://written", lambda key, data: server.files.update({f"/written/{key}": data})


def store(root):
    """The store that an address leads to."""
    return bucket(Address.parse(root))


@pytest.fixture(params=["azure", "google"])
def cloud(request):
    """Either of them."""
    return request.getfixturevalue(request.param)


def test_a_file_is_judged_as_it_is_on_a_disk(cloud, single, tmp_path):
    """By its address, and by that of the folder; a copy has the bytes that a local input gives."""
    root, put = cloud
    put("a/model.safetensors", single.read_bytes())
    assert audited(f"{root}/a/model.safetensors") == audited(single)
    assert audited(f"{root}/a/") == audited(single.parent)
    for name, place in (("there", f"{root}/a/model.safetensors"), ("here", single)):
        ckptclamp.apply(place, tmp_path / name, RULES)
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_what_is_not_there_or_is_replaced(cloud, single):
    """Each in its own words."""
    root, put = cloud
    put("b/model.safetensors", single.read_bytes())
    with pytest.raises(MissingError, match="there is no such object"):
        audited(f"{root}/b/other.safetensors")
    with ckptclamp.open_checkpoint(f"{root}/b/model.safetensors") as checkpoint:
        put("b/model.safetensors", single.read_bytes()[:-1] + b"x")
        with pytest.raises(ChangedError):
            checkpoint["layers.0.kernel"][...]


@pytest.fixture(params=["azure", "google_writing"])
def written(request):
    """Either of them, to write to."""
    return request.getfixturevalue(request.param)


def test_a_copy_appears_whole_and_under_a_free_name(written, single, sharded, tmp_path):
    """A file, one that is there already, and a set."""
    root, _ = written
    ckptclamp.apply(single, tmp_path / "local.safetensors", RULES)
    for forced in (False, True):
        ckptclamp.apply(single, f"{root}/c/m.safetensors", RULES, ApplyOptions(force=forced))
        made = bytes(obstore.get(store(root), "c/m.safetensors").bytes())
        assert made == (tmp_path / "local.safetensors").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        ckptclamp.apply(single, f"{root}/c/m.safetensors", RULES)
    ckptclamp.apply(sharded[0].parent, f"{root}/set", RULES)
    held = {one["path"] for batch in obstore.list(store(root)) for one in batch}
    assert {f"set/{path.name}" for path in sharded} <= held
    assert not any(".ckptclamp" in name for name in held)
    assert ckptclamp.audit(f"{root}/set/", RULES).exit_code == 0


def test_what_google_is_asked_to_write(monkeypatch, tmp_path):
    """Parts under a name of their own, a copy on the condition that the name is free, and no rest."""
    with serving(Google()) as server:
        lead_to(server.url, monkeypatch)
        weights = np.random.default_rng(3).normal(size=(5000, 1000)).astype(np.float32)
        bias = np.ones(4, np.float32)
        held = {"layers.0.kernel": weights, "layers.0.bias": bias}
        save_file(held, tmp_path / "large.safetensors")
        ckptclamp.apply(tmp_path / "large.safetensors", tmp_path / "local", RULES)
        ckptclamp.apply(tmp_path / "large.safetensors", "gs://asked/m.safetensors", RULES)
        assert server.files == {"/asked/m.safetensors": (tmp_path / "local").read_bytes()}
        assert not server.uploads
        parts = [path for _, path in server.asked if "partNumber" in path]
        assert len(parts) == 2
        assert [method for method, path in server.asked if "partNumber" not in path] == [
            *("POST", "POST", "PUT", "DELETE")
        ]
        server.files["/asked/n.safetensors"] = b""
        place = Address.parse("gs://asked/n.safetensors")
        with (
            closing(Source.open(tmp_path / "local")) as source,
            pytest.raises(NotWrittenError, match="by someone else meanwhile"),
        ):
            upload(source, place, replace=False)
        assert server.files.keys() == {"/asked/m.safetensors", "/asked/n.safetensors"}
