"""A store is asked with the credentials that will be used; its errors are shown without secrets."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from analysis.report.runs import read_study
from cola.errors import ColaError, SpecError, TrackingError
from cola.files import file_lock
from cola.spec.address import resolve_address, sqlite_uri
from orchestration.doctor.local_checks import tracking
from orchestration.tracking.mirror import open_mirror
from orchestration.tracking.mlflow_client import check_answers, store_lock
from orchestration.tracking.mlflow_runs import MlflowRuns


class Guarded(BaseHTTPRequestHandler):
    """Answers as a tracking server without experiments to whoever knows the password."""

    def answer(self) -> None:
        wanted = "Basic " + base64.b64encode(b"me:s3cret").decode()
        known = self.headers.get("Authorization") == wanted
        body = b'{"experiments": []}' if known else b"You are not authenticated."
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def certificate(folder: Path) -> Path:
    """A key and a certificate of its own for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and certificate of a TLS server that asks for a password."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    # The handshake is the handler's affair: a client that only connects must not block the rest.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", tmp_path / "server.pem"
    server.shutdown()
    thread.join()
    server.server_close()


def test_tls_and_credentials_of_the_environment(
    guarded: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, trusted = guarded
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_SERVER_CERT_PATH"):
        check_answers(resolve_address(uri))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
    with pytest.raises(
        TrackingError, match="refuses the credentials; set MLFLOW_TRACKING_USERNAME"
    ):
        check_answers(resolve_address(uri))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    check_answers(resolve_address(uri))


@pytest.mark.parametrize(
    ("uri", "kind", "expected"),
    [
        ("http://127.0.0.1:9", TrackingError, "cannot be reached"),
        ("./mlruns", SpecError, "is not a tracking store"),
        ("sqlite:////proc/nowhere/mlflow.db", TrackingError, "cannot be reached"),
    ],
)
def test_a_store_that_does_not_answer_is_refused(
    uri: str, kind: type[ColaError], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ColaError, match=expected) as caught:
        open_mirror(uri, "any", tmp_path)
    assert type(caught.value) is kind
    assert caught.value.exit_code == {SpecError: 2, TrackingError: 5}[kind]


def make_store(kind: str, path: Path) -> None:
    """A file that is no store of this MLflow release."""
    if kind == "garbage":
        path.write_bytes(b"not a database" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "something else's":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
    else:
        made = path.with_name("made.db")  # MLflow looks at a store's schema once a process
        MlflowRuns(resolve_address(sqlite_uri(made)), "any", path.parent / "artifacts")
        made.rename(path)
        if kind == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = 'abc'")


STORES = {
    "garbage": "file is not a database",
    "folder": "unable to open database file",
    "something else's": "is a database of something else (it has the table recipes",
    "another release's": "its tables are those of another MLflow release",
    "cut": "malformed",
}


@pytest.mark.parametrize("kind", STORES)
def test_a_store_that_is_none_is_one_line_everywhere(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    make_store(kind, path)
    uri = sqlite_uri(path)
    with pytest.raises(TrackingError) as refusal:
        open_mirror(uri, "any", tmp_path / "artifacts")
    finding = tracking(uri)
    for text in (str(refusal.value), finding.detail):
        assert STORES[kind] in text
        assert str(path) in text
        assert len(text.splitlines()) == 1
    assert finding.verdict == "fail"
    if kind != "something else's":  # which is read as a store without experiments
        with pytest.raises(ColaError) as unread:
            read_study("any", uri)
        assert len(str(unread.value).splitlines()) == 1


def test_a_store_that_is_not_there_yet_is_made_by_the_first_study(tmp_path: Path) -> None:
    finding = tracking(sqlite_uri(tmp_path / "new" / "mlflow.db"))
    assert (finding.verdict, "made by the first study" in finding.detail) == ("ok", True)
    assert list(tmp_path.iterdir()) == []
    MlflowRuns(resolve_address(sqlite_uri(tmp_path / "mlflow.db")), "any", tmp_path / "artifacts")
    assert tracking(sqlite_uri(tmp_path / "mlflow.db")).verdict == "ok"


def test_what_only_a_cluster_reaches_does_not_fail_here() -> None:
    assert tracking("http://127.0.0.1:9", decides=False).verdict == "warn"
    assert tracking("sqlite:////on/the/cluster.db", decides=False).verdict == "ok"


def test_an_address_by_reference_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLA_TRACKING", "http://me:s3cret@127.0.0.1:9/hidden")
    with pytest.raises(
        TrackingError, match=r"tracking\.uri=env:COLA_TRACKING: .*cannot be"
    ) as error:
        open_mirror("env:COLA_TRACKING", "any", tmp_path)
    assert not {"s3cret", "127.0.0.1", "hidden"} & set(str(error.value).replace("/", " ").split())


def test_a_fresh_database_is_made_once_by_four_drivers(tmp_path: Path) -> None:
    address = resolve_address(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(MlflowRuns, address, "one", tmp_path / "artifacts") for _ in range(4)]
        assert len({runs.result().experiment for runs in made}) == 1


def test_a_store_that_another_driver_is_making_is_waited_for(tmp_path: Path) -> None:
    """Asked meanwhile, MLflow would make the tables that are not there yet a second time."""
    file = tmp_path / "mlflow.db"
    address = resolve_address(sqlite_uri(file))
    with ThreadPoolExecutor(1) as pool:
        with file_lock(store_lock(file)):
            with closing(sqlite3.connect(file)) as half_made:
                half_made.execute("CREATE TABLE experiments (name TEXT)")
            answered = pool.submit(check_answers, address)
            with pytest.raises(TimeoutError):
                answered.result(0.5)
            file.unlink()
        answered.result()
