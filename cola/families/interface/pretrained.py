"""Models from folders that others may have made: weights and sizes are read, nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel

from cola.errors import SpecError, first_of, one_line

Model = TypeVar("Model", bound=PreTrainedModel)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
COPY_AGAIN = "copy or export the model again"
# Far above any configuration or index of a model that the families can build.
LARGEST_JSON = 64 * 2**20
# Keys of a configuration that choose code instead of sizes: kernels of the hub, classes of the
# folder's own, quantisers.
CODE_KEYS = ("attn_implementation", "auto_map", "quantization_config", "experts_implementation")


def load_pretrained(model_class: type[Model], folder: Path, **options: Any) -> Model:
    """A model of this class from a Hugging Face folder.

    Only safetensors are opened, only inside the folder; what config.json says about code (a hub
    kernel for attention, classes of its own, a quantiser) is ignored.

    Raises:
        SpecError: a file is missing, malformed or leads out of the folder, or the weights are not
            exactly those of the model.
    """
    if (folder / ADAPTER).exists():
        raise SpecError(f"{folder / ADAPTER}: adapters are not read; merge them into the weights")
    config = read_config(model_class.config_class, folder)
    for file in weight_files(folder):
        check_safetensors(file)
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpecError(
            f"{folder}: is no {model_class.__name__} ({one_line(error)}); {COPY_AGAIN}"
        ) from None
    check_complete(folder, report)
    return model


def read_config(config_class: type[PretrainedConfig] | None, folder: Path) -> PretrainedConfig:
    """The folder's config.json without the keys that choose code.

    Raises:
        SpecError: it is missing, malformed, or of another type of model.
    """
    assert config_class is not None  # every model class of the families names one
    file = folder / CONFIG
    values = read_json(file)
    kind = values.get("model_type")
    if kind != config_class.model_type:
        raise SpecError(
            f"{file}: model_type is {kind!r}, not {config_class.model_type!r}; give a folder with "
            "such a model"
        )
    plain = {key: value for key, value in values.items() if not chooses_code(key)}
    try:
        config = config_class.from_dict(plain)
    except Exception as error:  # whatever a foreign value breaks in the class
        raise SpecError(
            f"{file}: is no configuration of {kind} ({one_line(error)}); {COPY_AGAIN}"
        ) from None
    if not isinstance(config, config_class):
        raise SpecError(f"{file}: is no configuration of {kind}; {COPY_AGAIN}")
    return config


def chooses_code(key: str) -> bool:
    """Whether a key of a configuration names code to run."""
    return any(name in key for name in CODE_KEYS)


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: one file, or those of its index.

    Raises:
        SpecError: there are none, or the index leads out of the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise SpecError(
            f"{folder}: holds no {WEIGHTS}; weights in other formats (pickles) are not opened, "
            "convert them with safetensors"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SpecError(f"{index}: has no weight_map; {COPY_AGAIN}")
    return [weight_file(index, name) for name in sorted(set(map(str, names.values())))]


def weight_file(index: Path, name: str) -> Path:
    """A file that an index names.

    Raises:
        SpecError: the name is no plain one, or there is no such file in the folder.
    """
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise SpecError(
            f"{index}: names {name!r}, which is no safetensors file of its folder; {COPY_AGAIN}"
        )
    if not (index.parent / name).is_file():
        raise SpecError(f"{index}: names {name}, which is missing; {COPY_AGAIN}")
    return index.parent / name


def check_safetensors(file: Path) -> None:
    """Raise a SpecError where the file is cut short or no safetensors file."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise SpecError(
            f"{file}: cannot be read as safetensors ({one_line(error)}); {COPY_AGAIN}"
        ) from None


def check_complete(folder: Path, report: dict[str, Any]) -> None:
    """Raise a SpecError where weights were missing (they would be random) or left over."""
    for problem in ("missing", "unexpected", "mismatched"):
        found = report.get(f"{problem}_keys") or ()
        if found:
            raise SpecError(
                f"{folder}: its weights do not fit {CONFIG}: {problem} {some(found)}; {COPY_AGAIN}"
            )


def some(names: Iterable[Any]) -> str:
    """The first names and how many there are."""
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    return first_of(listed)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SpecError: the file is missing, too large or no JSON object.
    """
    if not file.is_file():
        raise SpecError(f"{file}: is missing; {COPY_AGAIN}")
    if file.stat().st_size > LARGEST_JSON:
        raise SpecError(f"{file}: is larger than {LARGEST_JSON // 2**20} MiB; {COPY_AGAIN}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{file}: is no JSON ({one_line(error)}); {COPY_AGAIN}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{file}: is no JSON object; {COPY_AGAIN}")
    return values
