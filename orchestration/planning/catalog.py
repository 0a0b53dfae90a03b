"""Look-up by name: studies that ship with the product, study files, runs of an output folder."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from cola.errors import SpecError, StorageError, first_of
from cola.files import read_json
from cola.records import Artifact
from cola.spec import apply_overrides, load_yaml
from cola.spec.locations import located
from cola.study import RunSpec, StudySpec
from cola.study.rules import changed_rules, hides, hides_tuned
from orchestration.planning.decisions import known_plan, saved_plan
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder

log = logging.getLogger(__name__)

SHOWN_KEY = 12  # characters of a run key in messages; a chosen value
# Keys that only sweeps have.
SWEEP_KEYS = ("space", "arms", "study", "algorithm", "budget")
CLOSE = 0.75  # similarity, 0 to 1, from which a name is taken for a slip; a chosen value
SPEC_REMEDY = (
    "the resolved specification of a run cannot be made from anything else in its folder: remove "
    "ledger.json there, and `cola run` of its study writes it again"
)


def shipped_studies() -> dict[str, Path]:
    """Files of the studies that ship with the product, by name."""
    folder = Path(str(resources.files("orchestration") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name_or_file: str, overrides: list[str]) -> StudySpec:
    """A study as `read_study` reads it, with absolute paths: for processes of this machine.

    A name that no study ships under may be that of a study of the output folder, which is `outputs`
    or the one that the settings name: the study as it was last run there.

    Raises:
        SpecError: for an unknown study and for anything invalid in it.
    """
    root = output_of(overrides)
    own = own_study(name_or_file, root)
    if own is not None:
        return located(_read(own, name_or_file, lying_in(root, overrides)))
    return located(read_study(name_or_file, overrides))


def own_study(name: str, root: Path) -> Path | None:
    """The file of an output folder's study of this name; None where `own_file` has none."""
    file = OutputFolder(root).studies / name / Artifact.STUDY
    return own_file(name, file, shipped_studies())


def own_file(name: str, file: Path, shipped: Container[str]) -> Path | None:
    """The file that a study or sweep of this name would have in an output folder, if it is there
    and the name is that of no shipped one and of no file, which come first."""
    plain = bool(name) and Path(name).name == name and name not in shipped
    return file if plain and not Path(name).is_file() and file.is_file() else None


def lying_in(root: Path, settings: Sequence[str]) -> list[str]:
    """The settings of what lies in this output folder, which may have been moved since."""
    return [f"output={json.dumps(str(root))}", *settings]


def read_study(name_or_file: str, overrides: list[str]) -> StudySpec:
    """A study by shipped name or YAML file, with `path.to.key=value` settings applied.

    Its paths are as they were written: on another machine, relative ones would be others.

    Raises:
        SpecError: for an unknown study and for anything invalid in it.
    """
    shipped = shipped_studies()
    path = shipped.get(name_or_file, Path(name_or_file))
    if not name_or_file.strip():
        raise SpecError("study: the name is empty; give a shipped study, a YAML file or a name")
    if path.is_dir():
        raise SpecError(
            f"study {name_or_file}: is a folder; name a YAML file (`cola init {name_or_file}` "
            "writes one for a folder of texts)"
        )
    if not path.exists():
        root = output_of(overrides)
        own = own_names(OutputFolder(root).studies)
        if name_or_file in own_names(OutputFolder(root).sweeps):
            raise SpecError(
                f"study {name_or_file}: is a sweep of {root}; {sweep_commands(name_or_file)}"
            )
        files = [str(file) for file in sorted(path.parent.glob("*.y*ml"))]
        raise SpecError(
            f"study {name_or_file}: neither a file nor a shipped study nor one of the output "
            f"folder{nearest(name_or_file, [*shipped, *own, *files])}; shipped: "
            f"{', '.join(shipped)}; in {root}: {first_of(own, 8) or 'none'}"
        )
    return _read(path, name_or_file, overrides)


def sweep_commands(sweep: str) -> str:
    """A clause with the commands for a sweep, by its name or file."""
    quoted = shlex.quote(sweep)
    return f"`cola sweep {quoted} --plan` plans it, `cola sweep status {quoted}` shows its trials"


def is_sweep_values(values: Mapping[str, Any]) -> bool:
    """Whether these are a sweep's: one has no families, and a study none of its keys."""
    return "families" not in values and any(key in values for key in SWEEP_KEYS)


def own_names(folder: Path) -> list[str]:
    """Names of what the folder of studies, or of sweeps, of an output folder holds."""
    return sorted(path.parent.name for path in folder.glob(f"*/{Artifact.STUDY}"))


def output_of(overrides: Sequence[str]) -> Path:
    """The output folder that settings name, else the default one."""
    given = [value for key, sep, value in (each.partition("=") for each in overrides)
             if key.strip() == "output" and sep]  # fmt: skip
    return Path(given[-1].strip().strip("\"'") if given else "outputs").expanduser().resolve()


def output_option(root: Path) -> str:
    """What a command needs to find what lies in this output folder, with a space before it; empty
    for the folder that commands take without it."""
    return "" if root == Path("outputs").resolve() else f" --output {shlex.quote(str(root))}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names the known names most like this one; empty where none is."""
    close = get_close_matches(name, dict.fromkeys(known), n=3, cutoff=CLOSE)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _read(path: Path, name: str, overrides: list[str]) -> StudySpec:
    log.debug("study %s: %s", name, path)
    written = load_yaml(path)
    if is_sweep_values(written):
        raise SpecError(f"{path}: is a sweep, not a study; {sweep_commands(name)}")
    values = apply_overrides(written, overrides)
    study = StudySpec.parse(values, origin=str(path))
    hidden = hidden_rules(study, changed_rules(written, values))
    if hidden:
        log.warning("--set has no effect: %s", "; ".join(hidden))
    return study


def hidden_rules(study: StudySpec, keys: Iterable[tuple[str, ...]]) -> list[str]:
    """Clauses on rules of the study, by their keys, that other rules come before."""
    found = []
    for key in keys:
        name = ".".join(("rules", *key))
        for variant, settings in study.families.items():
            tuned = study.tuned(variant)
            if hides_tuned(None if tuned is None else tuned.rules, key):
                found.append(
                    f"{name} on {variant}, for which `tuning` has rules (--set tuning=null)"
                )
            elif hides(settings.rules, key):
                own = f"families.{variant}.{name}"
                found.append(f"{name} on {variant}, which has its own: set {own}")
    return found


def finished_runs(study: str, root: Path) -> list[str]:
    """STUDY/RUN-NAME of each run of the study's last plan that has an exported model.

    They are in the plan's order; an unknown study has none.
    """
    if Path(study).name != study:
        return []
    planned = saved_plan(OutputFolder(root).studies / study).values()
    folder = Ledger(root).run_folder
    return [
        f"{study}/{slot['name']}"
        for slot in planned
        if RunFolder(folder(slot["run_key"])).model.exists()
    ]


def find_run(name: str, root: Path) -> Path:
    """The folder of a run, by path, by run key (or its first characters), or as STUDY/RUN-NAME.

    Raises:
        SpecError: when there is no such run, or several.
    """
    if RunFolder(Path(name)).spec.exists():
        return Path(name).absolute()
    study, _, run_name = name.partition("/")
    if run_name:
        for slot in saved_plan(OutputFolder(root).studies / study).values():
            if slot["name"] == run_name:
                return Ledger(root).run_folder(slot["run_key"])
    folders = sorted(path.parent for path in OutputFolder(root).runs.glob("*/spec.json"))
    matches = [folder for folder in folders if name and folder.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    known = [
        f"{folder.name}/{slot['name']}"
        for folder in sorted(OutputFolder(root).studies.glob("*"))
        for slot in known_plan(folder).values()
    ]
    problem = f"fits {len(matches)} runs" if matches else "no such run"
    # Of runs that no readable plan names, the keys are left.
    known = known or [folder.name[:SHOWN_KEY] for folder in folders]
    hint = (
        f"give one of: {first_of(known, 8)} (in {root})"
        if known
        else f"{root} holds no runs; name another output folder, or train first with `cola run`"
    )
    close = "" if matches else nearest(name, known)
    raise SpecError(f"run {name}: {problem}{close}; {hint}")


def load_run_spec(run_folder: Path) -> RunSpec:
    """The resolved specification in a run's folder.

    Raises:
        SpecError: its family is not installed, or it is not valid.
        StorageError: the file is damaged.
    """
    path = RunFolder(run_folder).spec
    values = read_json(path, remedy=SPEC_REMEDY)
    if not values:
        raise StorageError(f"{path}: is missing or empty; {SPEC_REMEDY}")
    return RunSpec.parse(values, origin=str(path))
