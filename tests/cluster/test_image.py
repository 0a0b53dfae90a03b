"""The image's Dockerfile, carried out step by step in a fresh Debian: `make test-cluster`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.recipes.image import BASE
from tests.paths import COLA, ROOT

MIRROR = "http://deb.debian.org/debian"
SUITES = {"debian:12-slim": "bookworm"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # of this machine, whose network it is
TRUSTED = "/etc/machine-certificates.crt"  # where the root has them


def missing() -> str | None:
    """Why no Debian can be made here; None where one can."""
    if os.geteuid() != 0:
        return "a Debian in a folder needs root"
    absent = [name for name in ("debootstrap", "unshare", "chroot") if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed (apt-get install debootstrap)" if absent else None


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture
def debian() -> Iterator[Path]:
    """A root folder with what the image's base has."""
    root = Path(f"/var/tmp/cola-image-{os.getpid()}")
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", SUITES[BASE], root, MIRROR],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        if made.returncode != 0:
            pytest.skip(f"debootstrap: {made.stdout.strip().splitlines()[-1]}")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def package_folders() -> list[Path]:
    """Folders of this machine in which its pip finds packages."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    words = listed.replace("'", " ").replace("file://", "").split()
    return [Path(word) for word in words if word.startswith("/") and Path(word).is_dir()]


def steps(dockerfile: str, root: Path) -> Iterator[str]:
    """The commands of bash that do what the Dockerfile says, in that root."""
    folder, user = "/", ""
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    if CERTIFICATES.exists():
        pip["PIP_CERT"] = TRUSTED
    if package_folders():
        pip["COLA_CPU_INDEX"] = ""  # a machine with packages of its own may reach no other index
    variables = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", *(f"{k}={v}" for k, v in pip.items())]
    for line in dockerfile.splitlines():
        verb, _, rest = line.partition(" ")
        if verb == "WORKDIR":
            folder = rest
            yield f"mkdir -p {root}{folder}"
        elif verb == "COPY":
            *names, target = rest.split()
            yield f"mkdir -p $(dirname {root}{folder}/{target})"
            # Of one folder its content goes into the target, as Docker has it.
            how = "-rT" if len(names) == 1 else "-r"
            sources = shlex.join(str(ROOT / name) for name in names)
            yield f"cp {how} {sources} {root}{folder}/{target}"
        elif verb == "ENV":
            variables += [item.replace("$PATH", "/usr/bin:/bin") for item in rest.split()]
        elif verb == "USER":
            user = f"--userspec={rest}:{rest}"
            variables.append(f"HOME=/home/{rest}")
        elif verb == "RUN":
            inside = f"cd {folder} && {rest}"
            yield f"echo '>>> {rest}'"
            yield (
                f"chroot {user} {root} /usr/bin/env -i {shlex.join(variables)} "
                f"bash -c {shlex.quote(inside)}"
            )


def mounts(root: Path) -> Iterator[str]:
    """What a container has of the machine, and this machine's way to packages."""
    yield f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
    yield f"cp /etc/resolv.conf {root}/etc/resolv.conf"
    for path in package_folders():
        yield f"mkdir -p {root}{path} && mount --bind {path} {root}{path}"
    if CERTIFICATES.exists():
        yield f"cp {CERTIFICATES} {root}{TRUSTED}"
    configuration = Path("/etc/xdg/pip")
    if configuration.is_dir():
        yield f"mkdir -p {root}/etc/xdg && cp -r {configuration} {root}/etc/xdg/"


def test_an_image_is_built_whose_user_is_not_root(debian: Path) -> None:
    """Without GPUs: the check of the Dockerfile's last step passes."""
    made = subprocess.run(
        [*COLA, "recipe", "--kind", "image", "--gpus-per-node", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    script = "\n".join(["set -euo pipefail", *mounts(debian), *steps(made.stdout, debian)])
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    print(f"{done.stdout[-3000:]}\n{time.monotonic() - began:.0f} s")
    checked = done.stdout.partition(">>> cola doctor")[2]
    assert "fail" not in checked
    assert "ok   packages" in checked, checked
