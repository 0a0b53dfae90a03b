"""A finished run as a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cola.data import PreparedData, prepare
from cola.families import family_of
from cola.records import Metric
from cola.spec import RunSpec, SpecError, StudySpec
from orchestration.export import export_run
from orchestration.journal import JournalWriter
from orchestration.plan import plan_study
from orchestration.train_loop import initial_model


@pytest.fixture
def data(tiny_study: dict[str, Any], tmp_path: Path) -> PreparedData:
    return prepare(StudySpec.parse(tiny_study).data, tmp_path / "cache")


def finished(
    family: str, values: dict[str, Any], data: PreparedData, root: Path
) -> tuple[Path, RunSpec, Any]:
    """A run's folder as the end of training leaves it."""
    plan = plan_study(StudySpec.parse(values))
    spec = next(run.spec for run in plan if run.spec.family == family)
    model = initial_model(family_of(family), spec)
    folder = root / "runs" / spec.run_key
    family_of(family).save(model, folder / "model")
    (folder / "data.json").write_text(json.dumps({"folder": str(data.folder)}))
    journal = JournalWriter(folder / "journal.jsonl")
    for step, nll in ((3, 5.0), (spec.steps, 4.25)):
        journal.write("evaluation", step, 0.0, {Metric.NLL: nll, Metric.BITS_PER_BYTE: 2.5})
    journal.close()
    return folder, spec, model


def test_an_exported_ar_model_opens_in_transformers(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec, model = finished("ar", tiny_study, data, tmp_path)
    target = tmp_path / "exported"
    export_run(folder, spec, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = "The river finds the lamp. Ünïcode too"
    ids = tokenizer(text)["input_ids"]
    assert ids == data.tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == data.tokenizer.eos_token_id
    loaded = AutoModelForCausalLM.from_pretrained(target)
    tokens_BL = torch.tensor([ids])
    with torch.no_grad():
        theirs = loaded.eval()(tokens_BL).logits
        ours = model.eval()(tokens_BL).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    card = (target / "README.md").read_text()
    assert "4.2500 nats per token (exact)" in card
    assert f"| seed | {spec.seed} |" in card
    assert f"{spec.budget:.6g} FLOPs (executed)" in card


@pytest.mark.parametrize("family", ["llada", "cola"])
def test_other_families_keep_their_layout(
    family: str, tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec, model = finished(family, tiny_study, data, tmp_path)
    target = tmp_path / "exported"
    target.mkdir()  # empty: may be filled
    export_run(folder, spec, target)
    loaded = family_of(family).load(target)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert AutoTokenizer.from_pretrained(target).eos_token == data.tokenizer.eos_token
    assert "(bound)" in (target / "README.md").read_text()
    suffixes = {path.suffix for path in target.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".md"}
    assert [path.name for path in tmp_path.glob(".cola-export-*")] == []
    if family == "cola":
        assert {path.name for path in target.iterdir() if path.is_dir()} == {"cola_dit", "cola_vae"}


def test_what_cannot_be_exported_is_refused(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec, _ = finished("ar", tiny_study, data, tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    with pytest.raises(SpecError, match="holds something already"):
        export_run(folder, spec, full)
    assert [path.name for path in full.iterdir()] == ["mine"]
    (folder / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(SpecError, match=r"pytorch_model\.bin: is neither safetensors nor JSON"):
        export_run(folder, spec, tmp_path / "new")
    (folder / "model").rename(tmp_path / "gone")
    with pytest.raises(SpecError, match="is not finished"):
        export_run(folder, spec, tmp_path / "new")
    assert not (tmp_path / "new").exists()
