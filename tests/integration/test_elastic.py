"""An elastic run on two nodes, one of which dies: it goes on with the worker that is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cola.data import open_prepared
from cola.study import RunSpec
from orchestration.state.journal import JournalReader
from orchestration.state.paths import RunFolder
from orchestration.training.distributed import WorkerRank
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from tests.conftest import write_study
from tests.ray_nodes import RayNodes
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=115), pytest.mark.ray, pytest.mark.deepspeed]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RayNodes]:
    with RayNodes(tmp_path, head_cpus=1) as cluster:
        cluster.add("second")
        yield cluster


def undisturbed(run_folder: Path) -> dict[int, float]:
    """Losses by step of the same run on one process, without Ray and DeepSpeed."""
    run = RunSpec.model_validate_json((run_folder / "spec.json").read_text())
    data = open_prepared(RunFolder(run_folder).data_folder())
    found: dict[int, float] = {}

    def record(state: TrainState) -> None:
        found[state.step] = state.result.values["loss"]

    train(
        run, data.train, TorchEngine, settings=LoopSettings(0), worker=WorkerRank(), hooks=[record]
    )
    return found


def test_a_run_goes_on_without_the_node_that_died(
    nodes: RayNodes, tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 6e10, "core_parameters": 60_000}]
    tiny_study["checkpoint"] = {"every_seconds": 2.0}
    tiny_study["resources"] = {"workers": 2, "min_workers": 1, "zero_stage": 2}
    outputs, study = Path(tiny_study["output"]), str(write_study(tiny_study, tmp_path))
    process = nodes.run("run", study, "--address", nodes.address)
    saved = "runs/*/ray/attempt-*/step-*/manifest-00000.json"
    until(lambda: bool(list(outputs.glob(saved))), "a checkpoint")
    nodes.kill("second")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    (journal,) = outputs.glob("runs/*/journal.jsonl")
    lines = list(JournalReader(journal).new_lines())
    starts = [line for line in lines if line.values.get("event") == "start"]
    assert [line.values["workers"] for line in starts] == [2, 1]
    assert starts[1].step > 0
    found = {line.step: line.values["train/loss"] for line in lines if line.kind == "train"}
    expected = undisturbed(journal.parent)
    assert max(found) == max(expected) > starts[1].step
    assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-3)
