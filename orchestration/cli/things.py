"""A study or a sweep by one argument: a shipped name, or a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cola.errors import SpecError, one_line
from cola.spec import load_yaml
from cola.spec.locations import located
from cola.spec.yaml_text import parse_yaml
from cola.study import StudySpec
from orchestration.output_mirror.mirror import check_mirror_address
from orchestration.planning.catalog import (
    is_sweep_values,
    load_study,
    output_of,
    own_study,
    read_study,
    shipped_studies,
    sweep_commands,
)
from orchestration.remote.submission import Submission, study_submission


def submission_of(
    services: Any,
    thing: str,
    settings: list[str],
    *,
    scale: str | None,
    sweep_settings: list[str],
    shared: str | None = None,
    here: bool = False,
) -> Submission:
    """What is sent of a study or sweep; `services` (of the command line) know sweeps.

    An output whose path is relative lies in the cluster's `shared` folder, if there is one. `here`:
    relative paths of a study's files are of this machine's working directory.

    Raises:
        SpecError: there is neither, it is invalid, or options are not for it.
    """
    if is_sweep(services, thing):
        found: Submission = services.sweep_submission(
            thing, scale, settings, sweep_settings=sweep_settings, shared=shared
        )
        check_mirror_address(found.study)
        return found
    if thing not in shipped_studies() and not Path(thing).exists():
        names = [*shipped_studies(), *services.sweeps()]
        raise SpecError(
            f"{thing}: neither a file nor a shipped study or sweep; shipped: {', '.join(names)}"
        )
    check_is_of_study(thing, scale, sweep_settings)
    study = read_study(thing, settings)
    placed = study.model_copy(update={"output": output_within(shared, study)})
    check_mirror_address(placed)
    return study_submission(located(placed) if here else placed)


def check_is_of_study(thing: str, scale: str | None, sweep_settings: Sequence[str]) -> None:
    """Refuse options of sweeps for a study.

    Raises:
        SpecError: naming the first of them.
    """
    given = {"--scale": scale, "--sweep-set": next(iter(sweep_settings), None)}
    for option, value in given.items():
        if value is not None:
            raise SpecError(
                f"{option} {value}: is for sweeps, and {thing} is a study; leave it out"
            )


def within(shared: str | None, study: StudySpec, settings: list[str]) -> list[str]:
    """The settings, with the study's output in the shared folder if its path is relative."""
    output = output_within(shared, study)
    return settings if output == study.output else [*settings, f"output={output}"]


def output_within(shared: str | None, study: StudySpec) -> str:
    """A study's output, in the shared folder if its path is relative."""
    if shared is None or Path(study.output).is_absolute() or study.output.startswith("~"):
        return study.output
    return str(Path(shared, study.output))


def is_sweep(services: Any, thing: str) -> bool:
    """Whether a name is a shipped sweep's, or a file holds a sweep; a study's name comes first."""
    if thing in shipped_studies():
        return False
    if thing in services.sweeps():
        return True
    path = Path(thing)
    return path.is_file() and holds_sweep(path)


def study_of(services: Any, name: str, settings: list[str]) -> StudySpec:
    """A study as `load_study` reads it; `services` (of the command line) know shipped sweeps.

    Raises:
        SpecError: see `load_study`; of a shipped sweep's name it names the commands for it.
    """
    known = name in shipped_studies() or Path(name).exists()
    known = known or own_study(name, output_of(settings)) is not None
    if services is not None and not known and name in services.sweeps():
        raise SpecError(f"{name}: is a sweep, not a study; {sweep_commands(name)}")
    return load_study(name, settings)


def holds_sweep(path: Path) -> bool:
    """Whether a YAML file is a sweep's.

    Raises:
        SpecError: it cannot be read, or is no mapping.
    """
    return is_sweep_values(load_yaml(path))


def submitted_values(text: bytes, where: str) -> dict[str, Any]:
    """The study or sweep that a submitted YAML file, on whatever machine, holds.

    Raises:
        SpecError: it is no mapping; `where` names the file.
    """
    try:
        values = parse_yaml(text.decode(errors="replace"))
    except yaml.YAMLError as error:
        raise SpecError(
            f"{where}: is not valid YAML ({one_line(error)}); submit it again"
        ) from None
    if not isinstance(values, dict):
        raise SpecError(f"{where}: holds no study or sweep; submit it again")
    return values


def study_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a study, or of the study that a sweep has in its file; else none."""
    study = values.get("study") if is_sweep_values(values) else values
    return study if isinstance(study, Mapping) else {}


def name_and_output(thing: str) -> tuple[str, str | None]:
    """The name of a study or sweep, given by itself or by its YAML file, and the file's `output`.

    Raises:
        SpecError: it is neither, or the file has no name.
    """
    if thing.endswith((".yaml", ".yml")) or Path(thing).is_file():
        values = load_yaml(Path(thing))
        name, output = values.get("name"), study_values(values).get("output")
        if not isinstance(name, str):
            raise SpecError(f"{thing}: has no `name`; give the study's or sweep's name itself")
        return name, None if output is None else str(output)
    if not thing.strip() or Path(thing).name != thing or thing in (".", ".."):
        raise SpecError(f"{thing!r}: is neither a file nor the name of a study or sweep")
    return thing, None
