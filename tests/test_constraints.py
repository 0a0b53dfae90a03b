"""constraints.txt: every package has a version and hashes; pip takes no file that has others."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = (ROOT / "constraints.txt").read_text()
# One a line, as pip joins them: NAME==VERSION ; MARKER --hash=sha256:HEX ...
ENTRIES = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", "").splitlines()
HASHES = {
    Requirement(pin): hashes for pin, *hashes in (re.split(r"\s+--hash=", e) for e in ENTRIES)
}
PINS = {pin.name: pin for pin in HASHES}


@pytest.mark.parametrize("part", ["build", "dependencies", "dev", "harness", "postgres", "wandb"])
def test_every_requirement_is_pinned_within_its_bounds(part: str) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    parts = {
        "build": ["pip", "uv", *PROJECT["build-system"]["requires"]],
        "dependencies": PROJECT["project"]["dependencies"],
    } | extras
    assert parts.keys() == {"build", "dependencies", "dev", "harness", "postgres", "wandb"}
    for required in map(Requirement, parts[part]):
        (specifier,) = PINS[canonicalize_name(required.name)].specifier
        assert specifier.operator == "=="
        assert required.specifier.contains(specifier.version), required


def test_every_pin_has_hashes_and_names_are_unique() -> None:
    assert len(PINS) == len(HASHES) == len(ENTRIES)
    for pin, hashes in HASHES.items():
        assert [str(each.operator) for each in pin.specifier] == ["=="], pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), pin


def test_torch_may_be_a_cpu_build_or_bring_cuda() -> None:
    cpu_builds = dict(re.findall(r"^# (torch-\S+) (sha256:\w+)$", TEXT, re.MULTILINE))
    assert cpu_builds
    (version,) = PINS["torch"].specifier
    assert all(name.startswith(f"torch-{version.version}+cpu-") for name in cpu_builds)
    # The installation takes them first, by the names in these lines.
    assert set(cpu_builds.values()) < set(HASHES[PINS["torch"]])
    assert {"triton", "cuda-toolkit", "nvidia-nccl-cu13"} <= PINS.keys()


@pytest.mark.parametrize("file", ["Makefile", "orchestration/templates/image.sh"])
def test_every_installation_checks_hashes(file: str) -> None:
    commands = re.findall(r"(?:PIP\)|pip\") install[^\\\n]*", (ROOT / file).read_text())
    assert len(commands) >= 3
    # The product's own folder has no hash; it brings no package with it.
    assert [c for c in commands if "--require-hashes" not in c and "--no-deps" not in c] == []


def wheel(folder: Path, name: str, requires: str = "") -> str:
    """Write a wheel of no modules; its hash."""
    path, info = folder / f"{name}-1-py3-none-any.whl", f"{name}-1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (("METADATA", metadata), ("WHEEL", kind), ("RECORD", "")):
            archive.writestr(f"{info}/{file}", text)
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("", "Would install leaf-1 stem-1"),
        ("another hash", "THESE PACKAGES DO NOT MATCH THE HASHES"),
        ("no pin", "all requirements must have their versions pinned"),
    ],
)
def test_pip_refuses_a_dependency_of_another_content(
    tmp_path: Path, fault: str, answer: str
) -> None:
    stem, leaf = wheel(tmp_path, "stem", "Requires-Dist: leaf\n"), wheel(tmp_path, "leaf")
    pin = {
        "": f"leaf==1 --hash={leaf}",
        "another hash": f"leaf==1 --hash={stem}",
        "no pin": "",
    }[fault]
    (tmp_path / "constraints.txt").write_text(f"stem==1 --hash={stem}\n{pin}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--isolated"),
            *("--find-links", tmp_path, "--require-hashes"),
            *("--constraint", tmp_path / "constraints.txt", "stem"),
        ],
        capture_output=True, text=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip
    assert answer in done.stdout + done.stderr
    assert (done.returncode == 0) == (fault == "")
