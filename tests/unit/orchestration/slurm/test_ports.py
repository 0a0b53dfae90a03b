"""Addresses, ports and folders of a job's Ray."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cola.errors import ClusterError
from orchestration.cluster.temporary_folder import SOCKET, SOCKET_PATH_BYTES
from orchestration.slurm.node import address_towards, parse, ray_command, why
from orchestration.slurm.ports import free_ports, local_folder, own_address


def test_ports_are_free_and_different() -> None:
    ports = free_ports("127.0.0.1", 5)
    assert len(set(ports)) == 5
    with socket.socket() as held:
        held.bind(("127.0.0.1", ports[0]))
        held.listen()
        assert ports[0] not in free_ports("127.0.0.1", 20)


def test_ports_are_none_that_connections_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "range"
    monkeypatch.setattr("orchestration.slurm.ports.CONNECTIONS", given)
    for first in (25_000, 20_002):
        given.write_text(f"{first}\t60999\n")
        assert all(20_000 <= port < first for port in free_ports("127.0.0.1", 2))
    given.write_text("1024\t65535\n")
    assert len(set(free_ports("127.0.0.1", 3))) == 3


def test_a_job_of_one_node_stays_on_loopback() -> None:
    assert own_address(1, "any.name") == "127.0.0.1"
    assert address_towards("127.0.0.1:6379") == "127.0.0.1"


def test_a_name_that_is_no_address_of_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")  # as /etc/hosts often has it
    with pytest.raises(ClusterError, match="node localhost: neither this name nor localhost"):
        own_address(2, "localhost")


@pytest.mark.parametrize("length", [4, 60, 200])
def test_sockets_fit_wherever_the_temporary_folder_is(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * (length - 1))
    folder = local_folder("cola-4294967295-4294967295-0123abcd")
    assert len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES
    assert (folder.parent == Path("/tmp")) == (length > 4)


def test_a_node_of_ray_has_explicit_addresses_and_ports_of_its_own() -> None:
    common = ["--mark=7-ab", "--folder=/tmp/f", "--address=10.0.0.1:41000"]
    worker = ray_command(parse([*common, "--", "--num-cpus=2", "--labels=a=b"]), "10.0.0.2")
    head = ray_command(
        parse([*common, "--head", "--dashboard-port=1", "--client-port=2"]), "10.0.0.1"
    )
    for command, own in ((worker, "10.0.0.2"), (head, "10.0.0.1")):
        assert f"--node-ip-address={own}" in command
        assert {"--block", "--min-worker-port=0", "--max-worker-port=0"} <= set(command)
        assert "--temp-dir=/tmp/f" in command
    assert {"--address=10.0.0.1:41000", "--num-cpus=2", "--labels=a=b"} <= set(worker)
    assert {"--head", "--port=41000", "--dashboard-host=127.0.0.1"} <= set(head)
    assert "--address=10.0.0.1:41000" not in head


def test_why_ray_ended_is_what_it_printed_of_an_error(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("started\n\n")
    assert why(log) == "started"
    log.write_text("started\n\x1b[31m  raylet [exit code=1]\x1b[39m\nRemaining will be killed.\n")
    assert why(log) == "raylet [exit code=1]"
    log.write_text("")
    assert why(log) == "no word of why"
