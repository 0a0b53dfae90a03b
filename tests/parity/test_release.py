"""The public release's reference tensors, layout and sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cola.errors import SpecError
from cola.families.interface.family import count_parameters
from cola.models.dit import ColaDiT, DiTConfig
from cola.models.text_vae import TextVAE, TextVAEConfig
from cola.release.check import check_release
from tests.paths import DATA

RELEASE = DATA / "release"
FOLDERS = ["patch1", "patch2"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_reference_tensor_is_reproduced(folder: str) -> None:
    comparisons = check_release(RELEASE / folder)
    expected = load_file(RELEASE / folder / "expected.safetensors")
    checked = {item.name for item in comparisons}
    inputs = ("vae.ids", "fm.z", "fm.t", "gen.prompt", "gen.noise")
    assert {name for name in expected if not name.startswith(inputs)} <= checked
    assert [item for item in comparisons if not item.passes] == []


def test_a_wrong_tensor_fails_the_check(tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(RELEASE / "patch1", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    expected = load_file(folder / "expected.safetensors")
    expected["gen.ids.1"][3] += 1
    expected["vae.mean.0"][0, 0] += 2e-4
    (folder / "expected.safetensors").unlink()
    save_file(expected, folder / "expected.safetensors")
    failed = {item.name for item in check_release(folder) if not item.passes}
    assert failed == {"gen.ids.1", "vae.mean.0"}


def test_a_folder_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no cola_dit/config\.json"):
        check_release(tmp_path)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("part", ["cola_dit", "cola_vae"])
def test_checkpoints_round_trip_in_the_release_layout(
    folder: str, part: str, tmp_path: Path
) -> None:
    source = RELEASE / folder / part
    model = AutoModel.from_pretrained(source)
    model.save_pretrained(tmp_path)
    before, after = (
        load_file(source / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours = json.loads((tmp_path / "config.json").read_text())
    theirs = json.loads((source / "config.json").read_text())
    left_out = {"architectures", "transformers_version", "dtype"}
    assert {k: ours.get(k) for k in theirs if k not in left_out} == {
        k: v for k, v in theirs.items() if k not in left_out
    }


def test_sharded_checkpoints_load(tmp_path: Path) -> None:
    model = ColaDiT.from_pretrained(RELEASE / "patch1" / "cola_dit")
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = ColaDiT.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("config", "model", "parameters"),
    [(DiTConfig, ColaDiT, 1_829_875_728), (TextVAEConfig, TextVAE, 501_871_574)],
)
def test_default_configurations_have_the_release_sizes(
    config: type, model: type, parameters: int
) -> None:
    with torch.device("meta"):
        assert count_parameters(model(config())) == parameters


def test_model_types_are_registered() -> None:
    assert isinstance(AutoConfig.for_model("cola_dit"), DiTConfig)
    assert isinstance(AutoConfig.for_model("cola_text_vae"), TextVAEConfig)
