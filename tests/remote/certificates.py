"""An authority of the tests, and a certificate of 127.0.0.1."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any


def certified(x509: Any, folder: Path) -> tuple[Path, Path]:
    """Write the authority's certificate, and a server's with its key; return both paths."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def named(name: str) -> Any:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def built(name: str, key: Any) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("authority of the tests"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = built("authority of the tests", ours).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    host = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = built("127.0.0.1", theirs).add_extension(host, critical=False)
    pem, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = theirs.private_bytes(pem, plain, serialization.NoEncryption())
    authority, chain = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(root.sign(ours, hashes.SHA256()).public_bytes(pem))
    chain.write_bytes(key + leaf.sign(ours, hashes.SHA256()).public_bytes(pem))
    return authority, chain
