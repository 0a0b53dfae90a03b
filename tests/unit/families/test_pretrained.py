"""A folder of unknown origin gives its weights and sizes, or one line; its code is never run."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from cola.errors import SpecError
from cola.families.interface.pretrained import load_pretrained
from cola.families.registry import family_of
from tests.sizes import FAMILIES, SMALL, size_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AR model's folder."""
    folder = tmp_path_factory.mktemp("exported")
    family = family_of("ar")
    torch.manual_seed(0)
    family.save(family.build(size_model("ar", 50_000, 60)), folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def write_index(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._file,))


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(folder / "sprung")))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no safetensors": (only_a_pickle, "holds no model.safetensors; weights in other formats"),
    "cut": (cut, "model.safetensors: cannot be read as safetensors"),
    "huge header": (huge_header, "model.safetensors: cannot be read as safetensors"),
    "a weight is missing": (drop_a_weight, "do not fit config.json: missing model.norm.weight"),
    "an index that leads out": (
        lambda folder: write_index(folder, "../../etc/passwd"),
        "names '../../etc/passwd', which is no safetensors file of its folder",
    ),
    "an absolute index": (
        lambda folder: write_index(folder, "/etc/passwd"),
        "names '/etc/passwd', which is no safetensors file",
    ),
    "a shard that is missing": (
        lambda folder: write_index(folder, "other.safetensors"),
        "names other.safetensors, which is missing",
    ),
    "an empty index": (
        lambda folder: (write_index(folder, "part.safetensors"),
                        (folder / "model.safetensors.index.json").write_text("{}")),
        "model.safetensors.index.json: has no weight_map",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: is missing"),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json: is no JSON object",
    ),
    "config is cut": (
        lambda folder: (folder / "config.json").write_text('{"model_type": '),
        "config.json: is no JSON",
    ),
    "another model": (
        lambda folder: change_config(folder, model_type="gpt2"),
        "config.json: model_type is 'gpt2', not 'llama'",
    ),
    "other sizes": (lambda folder: change_config(folder, hidden_size=64), "is no Llama"),
    "sizes that are text": (
        lambda folder: change_config(folder, hidden_size="large"),
        "config.json: is no configuration of llama",
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "adapter_config.json: adapters are not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(folder: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(SpecError) as refusal:
        load_pretrained(LlamaForCausalLM, folder)
    assert message in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "evil/kernel"},
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"quantization_config": {"quant_method": "evil"}},
    ],
)
def test_code_that_a_configuration_names_is_not_heeded(
    folder: Path, values: dict[str, Any]
) -> None:
    change_config(folder, **values)
    model = load_pretrained(LlamaForCausalLM, folder)
    assert model.config._attn_implementation == "sdpa"
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(model.state_dict()["model.norm.weight"], stored["model.norm.weight"])


def test_an_index_of_files_in_the_folder_is_read(folder: Path) -> None:
    before = load_file(folder / "model.safetensors")
    write_index(folder, "part.safetensors")
    model = load_pretrained(LlamaForCausalLM, folder)
    assert torch.equal(model.state_dict()["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_refuses_pickles(name: str, tmp_path: Path) -> None:
    family = family_of(name)
    family.save(family.build(size_model(name, 50_000, 60, **SMALL.get(name, {}))), tmp_path)
    for file in tmp_path.rglob("model.safetensors"):
        file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(SpecError, match=r"holds no model\.safetensors"):
        family.load(tmp_path)
