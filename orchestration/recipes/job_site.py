"""Where the jobs of a described Slurm cluster lie, and the machine that submits them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cola.errors import SpecError
from orchestration.remote.clusters import ClusterSpec
from orchestration.slurm.jobs import JobSite
from orchestration.slurm.machine import HERE, Machine, SshMachine


def job_site(cluster: ClusterSpec) -> JobSite:
    """The site of a cluster of `kind: slurm`.

    Raises:
        SpecError: its `ssh_config` is no file.
    """
    return JobSite(str(cluster.shared), machine_of(cluster.ssh, cluster.ssh_config))


@cache
def machine_of(host: str | None, configuration: str | None) -> Machine:
    """This machine, or the ssh host, which is connected to once.

    Raises:
        SpecError: the configuration is no file.
    """
    if host is None:
        return HERE
    if configuration is None:
        return SshMachine(host)
    path = Path(configuration).expanduser()
    if not path.is_file():
        raise SpecError(f"ssh_config={configuration}: is no file; name OpenSSH's configuration")
    return SshMachine(host, str(path.absolute()))
