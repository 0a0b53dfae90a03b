"""A study whose checkpoints go to an object store: the worker is killed, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cola.spec import SpecError
from orchestration.checkpoint_store import CheckpointStore, check_storage, open_store
from orchestration.journal import JournalReader
from tests.conftest import write_study
from tests.integration.test_study import cola, losses, start, states, until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server on this machine."""
    moto = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "not-a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What it holds outlives the server, within this process: an earlier test's files are let go.
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
    address = f"s3://bucket/prefix?scheme=http&endpoint_override={host}:{port}"
    CheckpointStore(f"{address}&allow_bucket_creation=true").filesystem.create_dir("bucket")
    yield address
    server.stop()


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(bucket: str) -> None:
    check_storage(bucket)
    assert open_store(bucket, Path("key")).stored() == []
    with pytest.raises(SpecError, match="cannot be written") as caught:
        check_storage(bucket.replace("s3://bucket", "s3://other"))
    assert "checkpoint.storage=s3://other/prefix: " in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_key_that_leads_outside_is_not_fetched(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket, Path("key"))
    folder = store.path("attempt-1/step-000000001")
    for name in ("kept", "../../../../outside"):
        with store.filesystem.open_output_stream(f"{folder}/{name}") as file:
            file.write(b"x")
    store.fetch("attempt-1/step-000000001", tmp_path / "a" / "b" / "c" / "d")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [tmp_path / "a" / "b" / "c" / "d" / "kept"]


def test_a_killed_worker_goes_on_from_the_object_store(
    bucket: str, tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 1e11, "core_parameters": 60_000}]
    tiny_study["checkpoint"] |= {"storage": bucket, "upload": "async", "every_seconds": 1.0}
    outputs, study = Path(tiny_study["output"]), str(write_study(tiny_study, tmp_path))
    process = start("run", study)
    until(lambda: bool(list(outputs.glob("runs/*/journal.jsonl"))), process)
    (folder,) = (outputs / "runs").iterdir()
    store = open_store(bucket, folder)
    until(lambda: any(map(store.complete, store.stored())), process)
    first = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    os.kill(first["values"]["pid"], signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "started again from step" in output
    assert states(outputs) == ["finished"]
    starts = [
        line.step
        for line in JournalReader(folder / "journal.jsonl").new_lines()
        if line.kind == "event" and line.values["event"] == "start"
    ]
    assert len(starts) == 2
    assert starts[1] > 0
    whole = [item for item in store.stored() if store.complete(item)]
    assert len(whole) == len(store.stored()) == 2  # `keep`, and nothing half uploaded
    assert not list(folder.glob("ray/*"))  # all of it went to the bucket

    # The same from its start on the local disk, undisturbed: the same losses.
    undisturbed = tmp_path / "undisturbed"
    settings = ("--set", f"output={undisturbed}", "--set", "checkpoint.storage=null")
    cola("run", study, *settings)
    assert losses(outputs) == losses(undisturbed)
