"""Addresses and ports of a job's Ray, chosen so that jobs on one node do not meet."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cola.errors import ClusterError
from orchestration.cluster.temporary_folder import FALLBACK, SOCKET, SOCKET_PATH_BYTES

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 20_000  # Ray's workers have those from 10,002 by default, also other users'
CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(host: str, count: int) -> list[int]:
    """Different ports of an address that nobody listens on now.

    Where there are enough they lie below those that the system gives to connections: Ray listens
    seconds later, and one of these may have been given by then.
    """
    below = range(LOWEST_PORT, _first_of_connections())
    tried = random.SystemRandom().sample(below, min(len(below), 50 * count))
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in (*tried, *[0] * count):  # 0: any that is free
            if len(found) == count:
                break
            each = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                each.bind((host, port))
                found.append(int(each.getsockname()[1]))
    return found


def _first_of_connections() -> int:
    """The first port that the system gives to connections; where Linux does not say it, that of
    the internet's dynamic ports (RFC 6335)."""
    try:
        return int(CONNECTIONS.read_text().split()[0])
    except OSError:
        return 49_152


def own_address(nodes: int, known_as: str) -> str:
    """The address under which the job's other nodes reach this one; loopback where it is alone.

    `known_as` is the name or address under which Slurm reaches the node.

    Raises:
        ClusterError: it stands for no address of this machine's network interfaces.
    """
    if nodes == 1:
        return LOOPBACK
    mine = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    for name in (known_as, socket.gethostname()):
        for found in addresses_of(name):
            if found in mine and not ipaddress.ip_address(found).is_loopback:
                return found
    raise ClusterError(
        f"node {known_as}: neither this name nor {socket.gethostname()} stands for an address of "
        "this machine's network, so that the job's other nodes cannot reach it; correct NodeAddr "
        "in slurm.conf, or the node's /etc/hosts"
    )


def addresses_of(name: str) -> list[str]:
    """The addresses that a name stands for, IPv4 first; none where it is unknown."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(info[4][0]) for info in sorted(found, key=lambda info: info[0] != socket.AF_INET)]


def local_folder(name: str) -> Path:
    """A folder of this machine for the sockets and logs of a job's Ray, of a short enough path."""
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(f"{base}/{name}/{SOCKET}")) > SOCKET_PATH_BYTES:
        base = FALLBACK
    return base / name


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.2) -> bool:
    """Whether a condition came true within the seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
