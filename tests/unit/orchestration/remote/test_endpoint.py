"""TLS: an untrusted certificate is refused in one sentence, a trusted one is taken."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cola.errors import ClusterError
from orchestration.remote.endpoint import Endpoint, check_answers
from orchestration.remote.jobs import client_of, jobs_of


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does to a client that looks for jobs."""

    answers = {"/api/version": {"version": "4", "ray_version": "2.60.0"}, "/api/jobs/": []}  # noqa: RUF012

    def do_GET(self) -> None:
        body = json.dumps(self.answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cola test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def port(certificate: tuple[Path, Path]) -> Iterator[int]:
    """A dashboard behind TLS on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever tokens this machine has


def test_a_certificate_that_nobody_trusts_is_refused(port: int) -> None:
    with pytest.raises(ClusterError, match=r"is not trusted \(.*\); give .*--ca-file") as refused:
        client_of(Endpoint(f"https://127.0.0.1:{port}"))
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 4


def test_a_trusted_certificate_is_taken(
    port: int, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"https://127.0.0.1:{port}"
    client = client_of(Endpoint(address, ca_file=certificate[0]))
    assert jobs_of(client, "tiny") == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    assert jobs_of(client_of(Endpoint(address)), "tiny") == []


def test_a_server_of_another_name_is_refused(port: int, certificate: tuple[Path, Path]) -> None:
    with pytest.raises(ClusterError, match=r"is not trusted \(.*localhost"):
        check_answers(Endpoint(f"https://localhost:{port}", ca_file=certificate[0]))


def test_who_does_not_answer_is_told(port: int) -> None:
    with pytest.raises(ClusterError, match=r"--address http://127\.0\.0\.1:1: does not answer"):
        check_answers(Endpoint("http://127.0.0.1:1"))
