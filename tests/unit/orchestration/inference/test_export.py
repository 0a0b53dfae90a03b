"""A finished run as a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from cola.data import PreparedData, TextTokenizer
from cola.errors import SpecError, StorageError
from cola.families.registry import family_of
from cola.records import SOLVER_DIFFERENCE, Metric
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.study import RunSpec, StudySpec
from orchestration.inference.export import export_run
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalWriter
from orchestration.training.train_loop import initial_model


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
        solved = {Metric.val(SOLVER_DIFFERENCE): 0.01}  # of Cola DLM; the others have none
        values = {Metric.NLL: nll, Metric.BITS_PER_BYTE: 2.5} | solved
        journal.write("evaluation", step, 0.0, values=values)
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
    start, *ids = tokenizer(text)["input_ids"]
    assert ids == data.tokenizer.encode(text)
    assert start == tokenizer.bos_token_id == spec.model.vocab_size
    assert tokenizer.decode([start, *ids], skip_special_tokens=True) == text
    assert tokenizer.eos_token_id == data.tokenizer.eos_token_id
    # What transformers says of a text by itself is the likelihood that the study reports.
    loaded = AutoModelForCausalLM.from_pretrained(target).eval()
    inputs = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = float(loaded(inputs, labels=inputs).loss)
        ours = family_of("ar").likelihood(
            model.eval(), torch.tensor([ids]), LikelihoodSpec(), stream=Stream(0, 0, [0])
        )
    assert mean * len(ids) == pytest.approx(float(ours.nll_B[0]), rel=1e-5)
    card = (target / "README.md").read_text()
    assert "4.2500 nats per token (exact)" in card
    assert f"| seed | {spec.seed} |" in card
    assert f"{spec.budget:.6g} FLOPs (executed)" in card
    assert card.startswith("---\npipeline_tag: text-generation\nlibrary_name: transformers\n")
    assert f"| specification, SHA-256 | {spec.run_key} |" in card
    example = card.partition("```python\n")[2].partition("```")[0]
    exec(example.replace("DIR", str(target)))
    modes = {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_an_exported_ar_model_generates_what_ours_does(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec, model = finished("ar", tiny_study, data, tmp_path)
    eos = data.tokenizer.eos_token_id
    with torch.no_grad():  # the start token would be the likeliest if it were not suppressed
        model.lm_head.weight[spec.model.vocab_size] *= 50
        model.lm_head.weight[eos] *= 20
    family_of("ar").save(model, folder / "model")
    export_run(folder, spec, tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    ended = []
    for prompt in ("The river", "lamp", "finds the", "a"):
        inputs = tokenizer(prompt, return_tensors="pt")["input_ids"]
        theirs = loaded.generate(inputs, max_new_tokens=12, do_sample=False)[0, inputs.shape[1] :]
        ours = family_of("ar").generate(
            model.eval(),
            [data.tokenizer.encode(prompt)],
            GenerationSpec(max_new_tokens=12),
            stream=Stream(0, 0, [0]),
            eos_token_id=eos,
        )
        assert theirs.tolist() == ours[0]
        ended.append(ours[0][-1] == eos)
    assert any(ended)


def test_a_start_token_changes_nothing_for_who_trains_with_the_tokenizer(
    data: PreparedData, tmp_path: Path
) -> None:
    text = f"the river <|startoftext|> lamp {data.tokenizer.eos_token}"
    size = data.tokenizer.vocab_size
    data.tokenizer.save(tmp_path, start_token_id=size)
    again = TextTokenizer.open(tmp_path, data.tokenizer.eos_token)
    assert again.vocab_size == size
    assert again.encode(text) == data.tokenizer.encode(text)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    # Text that spells special tokens is text.
    assert opened(text)["input_ids"] == [size, *data.tokenizer.encode(text)]
    assert opened(text, add_special_tokens=False)["input_ids"] == data.tokenizer.encode(text)
    assert data.tokenizer.encode(text)[-1] != data.tokenizer.eos_token_id


def test_a_start_token_behind_a_vocabulary_with_gaps(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 3}, unk_token="a"))
    tokenizer = TextTokenizer(backend, "</s>")
    tokenizer.save(tmp_path, start_token_id=tokenizer.vocab_size)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened("a")["input_ids"] == [4, 0]
    assert opened.bos_token is None  # it would be given a number that is taken


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
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert (tokenizer.eos_token, tokenizer.bos_token) == (data.tokenizer.eos_token, None)
    text = "The river finds the lamp."
    assert tokenizer(text)["input_ids"] == data.tokenizer.encode(text)
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
    with pytest.raises(StorageError, match=r"pytorch_model\.bin: is neither safetensors nor JSON"):
        export_run(folder, spec, tmp_path / "new")
    (folder / "model" / "pytorch_model.bin").unlink()
    (tmp_path / "a-file").touch()
    with pytest.raises(StorageError, match=r"--to .*a-file/new: cannot be written") as caught:
        export_run(folder, spec, tmp_path / "a-file" / "new")
    assert caught.value.exit_code == 3
    (folder / "model").rename(tmp_path / "gone")
    with pytest.raises(SpecError, match="is not finished"):
        export_run(folder, spec, tmp_path / "new")
    assert not (tmp_path / "new").exists()
