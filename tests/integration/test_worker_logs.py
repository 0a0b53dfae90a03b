"""A run that fails says where its worker's logs are; COLA_LOG reaches workers of a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root
from tests.conftest import write_study
from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.ray, pytest.mark.deepspeed]


def test_a_failed_run_names_its_workers_logs(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    """On a joined cluster, whose nodes were started without COLA_LOG."""
    tiny_study["families"] = {"ar": {}}
    tiny_study["resources"] = {"max_failures": 0}
    study = StudySpec.parse(tiny_study)
    (run,) = plan_study(study)
    ledger = Ledger(output_root(study))
    samples = RunFolder(ledger.run_folder(run.key)).samples
    samples.mkdir(parents=True)  # a folder in the way of a file that the finished run writes

    file = str(write_study(tiny_study, tmp_path))
    with RayNodes(tmp_path, head_cpus=2) as nodes:
        process = nodes.run("run", file, "--address", nodes.address, COLA_LOG="debug")
        output, _ = process.communicate(timeout=400)

    assert process.returncode == 1, output
    reason = ledger.entry(run.key).reason
    assert reason is not None
    assert f"failed ({reason})" in output
    named = re.fullmatch(r"(.*); logs: [^:, ]+:(/.*)/(worker-\*-(\d+)\.err)", reason)
    assert named is not None, reason
    cause, folder, pattern, pid = named.groups()
    assert cause.startswith("rank 0: [Errno 21] Is a directory: ")
    (log,) = Path(folder).glob(pattern)
    assert f"DEBUG cola.logs: process {pid} logs at level DEBUG" in log.read_text()
    assert f"-> '{samples}'" in log.read_text()
    # The driver, a child of the command on a joined cluster, logs to the command's stderr.
    assert f"INFO orchestration.driver.launcher: {run.name}: launched" in output
