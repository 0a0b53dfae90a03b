"""Real DeepSpeed engines: two workers give one worker's losses, at every ZeRO stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cola.data import prepare
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.slurm.ports import free_ports

# One interpreter imports everything once; each launch is a group of processes forked from it.
LAUNCHER = """
import json, os, sys, traceback
from pathlib import Path
import pytest
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from cola.data import open_prepared
from cola.families.registry import family_of
from cola.study import RunSpec
from orchestration.checkpoint.manifest import Cursor
from orchestration.training.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from orchestration.training.distributed import WorkerRank, gather_objects
from orchestration.training.train_loop import LoopSettings, StepHook, train
from orchestration.training.validation import summary_of, validation_rows

import_deepspeed()
for name in ("ar", "llada", "cola"):
    family_of(name)


def carry_out(job, worker):
    run, folder = RunSpec.model_validate(job["run"]), Path(job["folder"])
    data = open_prepared(Path(job["data"]))
    losses, evaluations, weights, average = {}, [], [], []

    def some_weights(state):
        found = state.engine.full_state_dict()
        return torch.cat([found[name].flatten()[:20] for name in sorted(found)]).tolist()

    class Agreed(StepHook):
        question = "third step"
        steps = []

        def asks(self, state):
            assert worker.rank == 0  # the other workers hear of it
            return state.step % 3 == 0

        def __call__(self, state):
            if state.asked(self.question):
                self.steps.append(state.step)
                assert state.step % 3 == 0

    agreed = Agreed()

    def record(state):
        shares = gather_objects(state.result.values, worker)
        values = {name: sum(each[name] for each in shares) / len(shares) for name in shares[0]}
        assert state.numbers.values == pytest.approx(values, rel=1e-12)
        assert state.numbers.gradient_norm == pytest.approx(state.result.gradient_norm, rel=1e-6)
        losses[state.step] = values["loss"]
        if state.step == job["save"]:
            folder.mkdir(exist_ok=True)
            state.save(folder)
            if worker.rank == 0:
                (folder / "cursor.json").write_text(state.cursor().model_dump_json())
        if state.step == job["stop"]:
            if job["evaluate"]:
                evaluations.append(summary_of(validation_rows(state, data), data, state.family))
            weights.extend(some_weights(state))
            with state.averaged():
                average.extend(some_weights(state))
            state.stop = "interrupted"

    resume = None
    if job["resume"]:
        resume = (folder, Cursor.model_validate_json((folder / "cursor.json").read_text()))

    class Engine(DeepSpeedEngine):
        def load(self, folder):
            super().load(folder)
            Path(job["copy"]).mkdir(exist_ok=True)
            self.save(Path(job["copy"]))

    settings = LoopSettings(job["zero_stage"], job["micro"])
    hooks = [record, agreed]
    state = train(
        run, data.train, Engine, settings=settings, worker=worker, hooks=hooks, resume=resume
    )
    first = min(losses)
    assert agreed.steps == [step for step in range(first, state.step + 1) if step % 3 == 0]
    state.engine.close()
    return {
        "losses": losses, "evaluations": evaluations, "weights": weights, "average": average,
    }


def work(launch, rank, results):
    worker = WorkerRank(rank, launch["workers"])
    address = f"tcp://127.0.0.1:{launch['port']}"
    dist.init_process_group("gloo", address, rank=rank, world_size=worker.world_size)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(worker.world_size)}
    found = [carry_out(job, worker) for job in launch["jobs"]]
    if rank == 0:
        results.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


for number, launch in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    children = []
    for rank in range(launch["workers"]):
        child = os.fork()
        if child == 0:
            try:
                work(launch, rank, Path(sys.argv[2]) / f"results-{number}.json")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(1)
"""

Jobs = list[dict[str, Any]]


def run_launches(launches: list[tuple[int, Jobs]], folder: Path) -> list[Jobs]:
    """What the jobs of each launch found, carried out one after the other on so many processes."""
    given = folder / "launches.json"
    written = [
        {"workers": workers, "jobs": jobs, "port": port}
        for (workers, jobs), port in zip(
            launches, free_ports("127.0.0.1", len(launches)), strict=True
        )
    ]
    given.write_text(json.dumps(written))
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(given), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = [folder / f"results-{number}.json" for number in range(len(launches))]
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture
def jobs(tiny_study: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """One job a family: 20 steps, at an accumulation of one; Cola DLM's are half of each stage."""
    study = StudySpec.parse(tiny_study)
    data = prepare(study.data, tmp_path / "cache")
    found = {}
    for planned in plan_study(study):
        run = planned.spec.model_dump(mode="json")
        if len(run["stages"]) > 1:
            run["stages"][0]["steps"] = 10
        found[planned.spec.family] = {
            "run": run,
            "data": str(data.folder),
            "folder": str(tmp_path),
            "stop": 20,
            "save": None,
            "resume": False,
            "copy": None,
            "micro": None,
            "evaluate": True,
        }
    return found


def differences(a: dict[str, float], b: dict[str, float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[step] - b[step]) for step in a)


@pytest.mark.slow(seconds=50)
@pytest.mark.deepspeed
def test_two_workers_equal_one_at_every_zero_stage(
    jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The same global batch over 20 steps in float32, all three families."""
    families = list(jobs)
    cases = [(name, stage) for name in families for stage in (1, 2, 3)]
    single = [jobs[name] | {"zero_stage": 0} for name in families]
    double = [jobs[name] | {"zero_stage": stage} for name, stage in cases]
    one, two = run_launches([(1, single), (2, double)], tmp_path)
    for (name, _), found in zip(cases, two, strict=True):
        expected = one[families.index(name)]
        assert len(found["losses"]) == 20
        assert differences(expected["losses"], found["losses"]) < 1e-3
        for metric, value in expected["evaluations"][0].items():
            assert found["evaluations"][0][metric] == pytest.approx(value, abs=1e-3)


Sharding = tuple[int, int]  # workers, ZeRO stage


def put_together(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a state, flat, from all of its workers' fragments."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for path in folder.glob("fragments-*.safetensors"):
        for key, values in load_file(path).items():
            name, start = key.rsplit("@", 1)
            parts.setdefault(name, {})[int(start)] = values
    return {name: torch.cat([parts[name][s] for s in sorted(parts[name])]) for name in parts}


@pytest.mark.slow(seconds=50)
@pytest.mark.deepspeed
def test_a_checkpoint_resumes_with_any_workers_at_any_zero_stage(
    jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Cola DLM interrupted inside its second stage (both engines' turn), at 8 sequences a step.

    Three workers have 2, 3 and 3 of them; with micro-batches of one, the first makes an empty pass.
    Its VAE is trained in every other step: in between its optimiser rests.
    """
    jobs["cola"]["run"]["objective"]["stage2"] |= {"gradient_mode": "interval", "vae_interval": 2}
    first = jobs["cola"]["run"]["stages"][0]["steps"] = 3
    base = jobs["cola"] | {"stop": first + 6, "evaluate": False}

    def job(source: Sharding, to: Sharding, **changes: Any) -> dict[str, Any]:
        run = base["run"]
        if source[1] < 3 and to[1] < 3:  # an average needs whole weights
            run = run | {"training": run["training"] | {"ema_decay": 0.9}}
        folder = tmp_path / "state-{}-{}".format(*source)
        copy = f"{folder}-as-{to[0]}-{to[1]}"
        changed = {"run": run, "folder": str(folder), "copy": copy, "zero_stage": to[1]}
        return base | changed | changes

    launches: list[tuple[int, Jobs]] = []
    cases: list[tuple[Sharding | None, Sharding]] = []  # the state begun with, and the own sharding
    for workers, micro, begun in (
        (1, None, [(None, 0), (None, 1)]),
        (2, None, [*((None, stage) for stage in range(4)), ((1, 0), 2), ((1, 1), 3), ((2, 3), 3)]),
        (1, None, [((2, 1), 1), ((2, 2), 2), ((2, 3), 0)]),
        (3, 1, [((2, 0), 2), ((2, 3), 3)]),
    ):
        own = [(source, (workers, stage)) for source, stage in begun]
        jobs_here = [
            job(to, to, save=first + 3)
            if source is None
            else job(source, to, resume=True, micro=micro)
            for source, to in own
        ]
        launches.append((workers, jobs_here))
        cases += own
    given = [job for _, jobs_here in launches for job in jobs_here]
    found = [result for results in run_launches(launches, tmp_path) for result in results]
    whole = {to: r for (source, to), r in zip(cases, found, strict=True) if source is None}
    for (source, _), carried_out, result in zip(cases, given, found, strict=True):
        if source is None:
            continue
        expected = whole[source]
        for step in (str(first + step) for step in (4, 5, 6)):
            assert result["losses"][step] == pytest.approx(expected["losses"][step], abs=1e-5)
        assert result["weights"] == pytest.approx(expected["weights"], abs=1e-5)
        if carried_out["run"]["training"]["ema_decay"] is not None:
            assert result["average"] == pytest.approx(expected["average"], abs=1e-5)
            assert result["average"] != pytest.approx(expected["weights"], abs=1e-3)
        # What was loaded is what was saved, bit by bit.
        before, after = (put_together(Path(carried_out[key])) for key in ("folder", "copy"))
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
