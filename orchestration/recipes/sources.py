"""This machine's sources of the product for the jobs of a Slurm cluster that has none, or others.

They lie in a folder of the shared one that is named by their digest, so that jobs which run keep
theirs. The environment with the libraries stays what `setup` makes.
"""

from __future__ import annotations

import io
import logging
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cola
from cola.errors import ClusterError
from cola.files import storage_errors
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.packaging import (
    PACKAGES,
    JobEnvironment,
    pack_sources,
    sources_digest,
)
from orchestration.slurm.jobs import JobSite
from orchestration.slurm.machine import ON_STORAGE, Machine, last_line

log = logging.getLogger(__name__)

FOLDER = "cola-sources"
KEY, OPTION = "send_sources", "--environment sources"
REMEDIES = {KEY: "send_sources: false in clusters.yaml", OPTION: "--environment cluster"}
DIGITS = 16  # of the digest in a folder's name; a chosen value
ASK_SECONDS = 120.0  # for the environment there to say what it has; a chosen value
SEND_SECONDS = 600.0  # for some megabytes; a chosen value
# For an environment that has the libraries alone.
COMMAND = """#!/bin/sh
exec python3 -c 'import sys; sys.argv[0] = "cola"; from sweeps.cli import main; main()' "$@"
"""
# An archive in whole, then unpacked beside its place, then moved there: present is complete.
UNPACK = """set -u
mkdir -p -- "$1" && trap 'rm -rf -- "$2" "$2.tar"' EXIT || exit 1
cat > "$2.tar" && mkdir -- "$2" || exit 1
said=$(tar -xzf "$2.tar" -C "$2" 2>&1) || { printf '%s\\n' "$said" | grep -m 1 . >&2; exit 1; }
mv -T -- "$2" "$3" || [ -d "$3" ]"""


def why_sent(cluster: ClusterSpec, environment: JobEnvironment | None) -> str | None:
    """What asks for this machine's sources: the option, which comes before the cluster's
    `send_sources`, or that key; None where neither does."""
    if environment is not None:
        return OPTION if environment == "sources" else None
    return KEY if cluster.send_sources else None


def sources_for(
    cluster: ClusterSpec, site: JobSite, environment: JobEnvironment | None = None
) -> str | None:
    """The folder there with this machine's sources, which are sent where it has them not yet.

    None where none are to be sent (`why_sent`), or the environment of `setup` has the same.

    Raises:
        SpecError: a file of the sources is a link or too large, or an ssh host does not answer.
        StorageError: the shared folder takes no files.
    """
    why = why_sent(cluster, environment)
    if why is None:
        return None
    with tempfile.TemporaryDirectory(prefix="cola-sources-") as packed:
        digest = packed_sources(Path(packed), why)
        folder = Path(site.shared, FOLDER, digest[:DIGITS])
        if site.machine.has_folder(folder):
            return str(folder)
        if digest_there(site.machine, cluster.setup) == digest:
            log.info("%s has these sources (%s)", site.machine.where, digest[:DIGITS])
            return None
        unpack(site.machine, archive_of(Path(packed)), folder)
        log.info("sources sent to %s:%s", site.machine.where, folder)
    return str(folder)


def packed_sources(folder: Path, why: str = KEY) -> str:
    """Copy the packages that this process runs into an empty folder; their digest.

    Raises:
        SpecError: a file is a link, or too large to be source; `why` is what asks for them.
    """
    root = Path(cola.__file__).resolve().parents[1]
    pack_sources(root, folder, PACKAGES, why=why, remedy=REMEDIES[why])
    return sources_digest(folder)


def digest_there(machine: Machine, setup: Sequence[str]) -> str | None:
    """The digest of the sources that the environment there has; None where it has no `cola`, or one
    that does not say.

    Raises:
        UnreachableError: an ssh host does not answer.
    """
    script = "\n".join([*setup, "exec cola sources-digest"])
    try:
        answer = machine.call(["bash", "-c", script], seconds=ASK_SECONDS)
    except ClusterError as error:
        log.info("no digest of the sources there: %s", error)
        return None
    words = answer.output.decode(errors="replace").split()
    return words[-1] if answer.code == 0 and words else None


def plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry of an archive without user, time and mode of its own."""
    item.uid = item.gid = 0
    item.mtime = 0
    item.uname = item.gname = ""
    item.mode = 0o755 if item.isdir() else 0o644
    return item


def archive_of(folder: Path) -> bytes:
    """The folder's files and the command `cola` as a compressed archive, of no user and time."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=plain)
        command = tarfile.TarInfo("bin/cola")
        command.mode, command.size = 0o755, len(COMMAND)
        archive.addfile(command, io.BytesIO(COMMAND.encode()))
    return content.getvalue()


def unpack(machine: Machine, archive: bytes, folder: Path) -> None:
    """Unpack an archive into a new folder there, which appears with all of its files.

    Raises:
        StorageError: the folder cannot be written.
    """
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    places = [str(folder.parent), str(beside), str(folder)]
    answer = machine.call(["sh", "-c", UNPACK, "sh", *places], given=archive, seconds=SEND_SECONDS)
    with storage_errors(f"{machine.where}:{folder}", remedy=ON_STORAGE):
        if answer.code != 0:
            raise OSError(last_line(answer.errors))


def setup_with(cluster: ClusterSpec, sources: str | None) -> list[str]:
    """The lines of bash that make the environment, with the sources before what it has."""
    lines = [line for entry in cluster.setup for line in entry.splitlines()]
    if sources is None:
        return lines
    place = shlex.quote(sources)
    return [
        *lines,
        f'export PYTHONPATH={place}"${{PYTHONPATH:+:$PYTHONPATH}}" PATH="$PATH":{place}/bin',
    ]
