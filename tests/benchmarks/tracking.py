"""How fast mirrors send 64 runs through one MLflow server, and what an outage costs.

    python -m tests.benchmarks.tracking [--store sqlite|postgres] [--runs 64] [--points 200]
        [--drivers 8] [--workers 4] [--outage-seconds 120]

Prints points per second, lost and doubled points; then the same with the server killed in the
middle, away for --outage-seconds while the journals grow (0: leave that out), and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import tempfile
import time
from pathlib import Path

from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.tracking.mlflow_server import free_port
from tests.mirrors import Drivers, stored_points
from tests.servers import kill, postgres, start_mlflow
from tests.waiting import until

PATIENCE_SECONDS = 1800.0
GROWTH = 10  # lines that each journal grows by during the outage


def many_runs(count: int) -> list[RunSpec]:
    """Specifications that differ in their seed alone."""
    study = StudySpec.parse(
        {
            "name": "many",
            "families": ["ar"],
            "ladder": [{"budget": 2.0e10, "core_parameters": 60_000}],
            "data": {
                "corpus": {"source": "python-stdlib"},
                "tokenizer": {"kind": "bpe", "vocab_size": 320},
                "sequence_length": 128,
            },
            "training": {"batch_sequences": 8},
            "seeds": list(range(count)),
        }
    )
    return [run.spec for run in plan_study(study)]


def measure(store: str, folder: Path, options: argparse.Namespace, outage: float) -> dict[str, str]:
    """One server, all runs, with or without an outage in the middle."""
    port = free_port(0)
    server = start_mlflow(store, folder, port, options.workers)
    try:
        began = time.monotonic()
        specs = many_runs(options.runs)
        drivers = Drivers(f"http://127.0.0.1:{port}", specs, options.drivers, folder)
        drivers.write(range(1, options.points + 1))
        if outage:
            lines = options.runs * options.points
            until(lambda: drivers.sent() >= lines // 4, "a quarter of the lines", PATIENCE_SECONDS)
            kill(server)
            drivers.write(range(options.points + 1, options.points + 1 + GROWTH))
            signal.sigtimedwait([], outage)
            server = start_mlflow(store, folder, port, options.workers)
            back = time.monotonic()
        late = drivers.finish(PATIENCE_SECONDS)
        now = time.monotonic()
    finally:
        kill(server)
    stored, points = stored_points(store), drivers.expected.total()
    found = {
        "points": str(points),
        "lost": str((drivers.expected - stored).total()),
        "doubled or strange": str((stored - drivers.expected).total()),
        "runs not sent whole": str(len(late)),
        "seconds": f"{now - began:.1f}",
    }
    if outage:
        return found | {"seconds after the outage": f"{now - back:.1f}"}
    return found | {"points per second": f"{points / (now - began):.0f}"}


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--points", type=int, default=200, help="journal lines a run")
    parser.add_argument("--drivers", type=int, default=8)
    parser.add_argument("--workers", type=int, default=4, help="of the server")
    parser.add_argument("--outage-seconds", type=float, default=120.0)
    options = parser.parse_args()
    for outage in sorted({0.0, options.outage_seconds}):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracking-")))
            sqlite = f"sqlite:///{folder / 'mlflow.db'}"
            store = sqlite if options.store == "sqlite" else stack.enter_context(postgres())
            found = measure(store, folder, options, outage)
        print(json.dumps({"store": options.store, "outage_seconds": outage, **found}), flush=True)


if __name__ == "__main__":
    main()
