"""Preparation by several processes: one builds, the others wait, a death leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cola.data import prepare
from cola.spec import DataSpec


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    texts = ["".join(f"line {line} of {i}: {i * line}\n" for line in range(12)) for i in range(60)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    values = {
        "corpus": {"source": "files", "paths": [str(path)]},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "sequence_length": 16,
        "validation_fraction": 0.2,
    }
    return DataSpec.parse(values)


BUILDER = """
import json, os, signal, sys
from pathlib import Path
from cola.data import prepare
from cola.spec import DataSpec

mode = sys.argv[3]

def report(message, fraction):
    print(message, flush=True)
    if mode == "hold" and message == "encoding":
        sys.stdin.readline()
    if mode == "die" and message == "encoding":
        os.kill(os.getpid(), signal.SIGKILL)

spec = DataSpec.parse(json.loads(sys.argv[1]))
print("starting", flush=True)
data = prepare(spec, Path(sys.argv[2]), report)
print(len(data.train), data.meta["fingerprint"], flush=True)
if mode == "fork":
    if os.fork() == 0:
        signal.alarm(20)
        data.tokenizer.backend.encode_batch(["child"] * 1000)
        os._exit(0)
    sys.exit(os.wait()[1])
"""


def start(spec: DataSpec, cache: Path, mode: str = "") -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, spec.canonical_json(), str(cache), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    pytest.fail(f"the process ended without {line!r}")


@pytest.mark.slow
def test_one_builds_while_three_wait(spec: DataSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    builder = start(spec, cache, mode="hold")
    wait_for(builder, "encoding")
    others = [start(spec, cache) for _ in range(3)]
    for process in others:
        wait_for(process, "starting")
    # The build itself takes a tenth of a second: who had not to wait would be done.
    with pytest.raises(subprocess.TimeoutExpired):
        others[-1].wait(timeout=1)
    assert all(process.poll() is None for process in others)
    out, errors = builder.communicate("go on\n", timeout=60)
    *progress, result = out.splitlines()
    assert (builder.returncode, errors) == (0, "")
    assert progress[-1] == "data ready"
    for process in others:
        # Only a builder shows progress: nothing comes before the result.
        assert process.communicate(timeout=60) == (result + "\n", "")
        assert process.returncode == 0
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_four_start_at_once(spec: DataSpec, tmp_path: Path) -> None:
    processes = [start(spec, tmp_path / "cache") for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in outputs] == [""] * 4
    lines = [out.splitlines() for out, _ in outputs]
    assert len({out[-1] for out in lines}) == 1
    assert sorted(out.count("data ready") for out in lines) == [0, 0, 0, 1]


def test_a_builder_that_dies_leaves_no_lock_and_no_rubbish(spec: DataSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    killed = start(spec, cache, mode="die")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(cache.glob(".building*"))) == 1
    data = prepare(spec, cache)
    assert len(data.train) > 0
    assert not list(cache.glob(".building*"))


def test_a_fork_after_building_neither_warns_nor_hangs(spec: DataSpec, tmp_path: Path) -> None:
    process = start(spec, tmp_path / "cache", mode="fork")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "data ready" in out
