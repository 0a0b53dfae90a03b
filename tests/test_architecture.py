"""Who may import whom: the boundaries between packages and folders (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cola.families.registry import BUILT_IN
from tests.layout import (
    PACKAGES,
    ROOT,
    folder_graph,
    folder_of,
    graph,
    imports,
    is_init,
    lines_in,
    modules,
    picture,
    reached_from,
    tree_of,
)

LEAVES = (
    "cola.spec", "cola.compute", "cola.records", "cola.errors", "cola.files", "cola.jsonl",
    "cola.families.registry", "cola.process_environment", "cola.byte_marks", "cola.tuning",
    "cola.rate_points", "cola.terminal", "cola.terminal_tables", "cola.study.schedule",
)  # fmt: skip
# What analysis shares with evaluation: numbers alone, by numpy and scipy.
STATISTICS = "cola.evaluation.clusters"
# What has the torch-free and the torch half of each family, in its own folder.
FAMILIES = (
    "cola.families.ar", "cola.families.llada", "cola.families.cola", "cola.families.bd3lm",
    "cola.families.embedding_diffusion",
)  # fmt: skip
MOST_FILES = 15  # of a folder: as many as a reader can scan
MOST_LINES = 400  # of a file

# Folders of a package from the bottom up: each imports only from layers below its own.
LAYERS = {
    "orchestration": (
        {"compat", "state", "web"},
        {"checkpoint", "cluster", "tracking"},
        {"planning"},
        {"step"},
        {"training"},
        {"worker", "inference", "remote", "slurm", "cleanup", "benchmark", "first_study"},
        {"trainers", "recipes", "output_mirror"},
        {"driver"},
        {"doctor", "results"},
        {"watch"},
        {"cli"},
        {"serving", "frontier"},
    ),
    "sweeps": ({"space"}, {"search", "trials"}, {"views"}, {"driver"}),
    "analysis": (
        {"forecasts", "plotting", "profiles", "publication", "tables", "tracking"},
        {"conditions", "generation_frontier", "held_out_sets"},
        {"fitting"},
        {"curve_laws", "metric_laws", "regressions"},
        {"table_fit"},
        {"floors"},
        {"report", "sweep_report"},
        {"comparison", "imports", "metric_report"},
        {"study_forecasts"},
    ),
    "cola/evaluation": ({"few_shot", "models"}, {"tasks"}, {"harness", "frontier", "held_out"}),
}


def above(*names: str) -> set[str]:
    """What a part of `cola` does not know: these parts, and what holds whole families."""
    return {f"cola.{name}" for name in (*names, "study", "evaluation")}


# Folder -> modules that nothing in it imports.
FORBIDDEN = {
    "cola": {"ray", "deepspeed", "mlflow", "typer", "orchestration", "sweeps", "analysis"},
    "orchestration": {"sweeps", "analysis", *FAMILIES},
    "analysis": {"torch", "ray", "deepspeed", "transformers", "orchestration", "sweeps"},
    "analysis/fitting": {"mlflow", "matplotlib"},
    "orchestration/training": {"ray", "mlflow"},
    "cola/spec": above("families", "models", "objectives", "sampling", "likelihood", "data"),
    "cola/data": above("models", "families", "objectives", "sampling", "likelihood"),
    "cola/models": above("families", "objectives", "sampling", "likelihood", "data"),
    "cola/objectives": above("families", "sampling", "likelihood", "data"),
    "cola/sampling": above("families", "objectives", "likelihood", "data"),
    "cola/likelihood": above("families", "sampling", "data"),
    "cola/families": above("data"),
    "cola/study": {"cola.models", "cola.objectives", "cola.sampling", "cola.likelihood"},
    "cola/evaluation": {"cola.models", "cola.sampling", "cola.likelihood", *FAMILIES},
    "sweeps": {*FAMILIES},
}

# Folders that never load torch, not even through what they import.
TORCH_FREE = {
    "orchestration/compat",
    "orchestration/state",
    "orchestration/checkpoint",
    "orchestration/cluster",
    "orchestration/driver",
    "orchestration/trainers",
    "orchestration/tracking",
    "orchestration/planning",
    "orchestration/remote",
    "orchestration/slurm",
    "orchestration/recipes",
}

# What the processes that train never reach, not even through what they import: a worker writes a
# journal, and only the driver knows MLflow and the queue.
WORKERS = ("orchestration/training", "orchestration/worker")
DRIVERS_ONLY = ("tracking", "cluster", "inference", "trainers", "driver", "remote", "slurm",
                "recipes", "doctor", "cli")  # fmt: skip

# Module -> the only files that import it.
RESERVED = {
    "deepspeed": {"orchestration/training/deepspeed_engine.py"},
    "mlflow": {
        "orchestration/tracking/mlflow_client.py",
        "orchestration/tracking/mlflow_runs.py",
        "analysis/report/runs.py",
        "analysis/tracking/store.py",
    },
    "wandb": {"orchestration/tracking/wandb_runs.py"},
    "ray": {
        "orchestration/compat/ray.py",
        "orchestration/cluster/session.py",
        "orchestration/cluster/admission_actor.py",
        "orchestration/cluster/processes.py",
        "orchestration/worker/worker.py",
        "orchestration/trainers/ray_trainer.py",
        "orchestration/trainers/warm_workers.py",
        "orchestration/trainers/worker_logs.py",
        "orchestration/inference/ray_workers.py",
        "orchestration/remote/jobs.py",
        "sweeps/driver/",
        "sweeps/trials/",
    },
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def in_folder(module: str, folder: str) -> bool:
    return within(module, folder.replace("/", "."))


def importing(folder: str, banned: set[str]) -> list[str]:
    """Places below a folder that import what they must not."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in modules().items()
        if in_folder(name, folder)
        for line, target in imports(path)
        if any(within(target, each) for each in banned)
    ]


def test_no_forbidden_imports() -> None:
    found = [place for folder, banned in FORBIDDEN.items() for place in importing(folder, banned)]
    assert found == []


def test_heavy_packages_stay_in_their_modules() -> None:
    found: dict[str, set[str]] = {package: set() for package in RESERVED}
    for path in modules().values():
        for _, target in imports(path):
            package = target.partition(".")[0]
            if package in found:
                found[package].add(str(path.relative_to(ROOT)))
    for package, allowed in RESERVED.items():
        files = found[package]
        assert sorted(name for name in files if not name.startswith(tuple(allowed))) == [], package
        unused = [name for name in allowed if not any(f.startswith(name) for f in files)]
        assert unused == [], f"these rules of {package} guard nothing"


def test_analysis_knows_only_the_leaves_of_cola() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in modules().items()
        if within(name, "analysis")
        for line, target in imports(path)
        if within(target, "cola") and target != "cola"
        if not any(within(target, leaf) for leaf in (*LEAVES, STATISTICS))
    ]
    assert found == []


@pytest.mark.parametrize("package", LAYERS)
def test_folders_import_downwards_only(package: str) -> None:
    level = {f"{package}/{name}": at for at, layer in enumerate(LAYERS[package]) for name in layer}
    inner = {folder for folder in folder_graph() if folder.startswith(f"{package}/")}
    if package != "cola":
        assert inner == set(level), "every folder has its layer"
    upwards = [
        f"{folder} imports {target}"
        for folder in level
        for target in folder_graph()[folder]
        if level.get(target, -1) >= level[folder]
    ]
    assert upwards == []


def test_no_two_modules_import_each_other() -> None:
    pairs = [(a, b) for a, targets in graph().items() for b in targets if a in graph()[b]]
    assert pairs == []


def test_no_two_folders_import_each_other() -> None:
    edges = folder_graph()
    assert [(a, b) for a in edges for b in edges[a] if a in edges[b]] == []


def test_no_two_packages_import_each_other() -> None:
    edges = {
        (name.split(".")[0], target.split(".")[0])
        for name, targets in graph().items()
        for target in targets
    }
    assert [(a, b) for a, b in edges if a != b and (b, a) in edges] == []


@pytest.mark.parametrize("folder", WORKERS)
def test_workers_never_reach_what_is_the_drivers(folder: str) -> None:
    banned = tuple(f"orchestration.{name}" for name in DRIVERS_ONLY)
    reached = {
        f"{name} reaches {target}"
        for name in modules()
        if in_folder(name, folder)
        for target in reached_from(name)
        if any(within(target, each) for each in banned)
    }
    assert sorted(reached) == []


def test_torch_free_folders_load_no_torch() -> None:
    """Imported in a fresh interpreter, with everything that they import in turn."""
    names = [name for name in modules() for folder in TORCH_FREE if in_folder(name, folder)]
    heavy = {"torch", "ray", "deepspeed", "mlflow", "transformers", "datasets", "wandb"}
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_commands_wait_for_no_library_that_they_do_not_use() -> None:
    """All modules with commands together; each of these takes some tenths, or two seconds."""
    heavy = {
        "torch", "ray", "deepspeed", "mlflow", "transformers", "datasets", "pandas", "matplotlib",
        "scipy.stats",
    }  # fmt: skip
    code = (
        "import importlib, sys\nfrom sweeps.commands import COMMANDS\n"
        "for entry in COMMANDS: importlib.import_module(entry.module)\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_leaves_need_only_pydantic() -> None:
    allowed = {"pydantic", "pydantic_core", "yaml", "cola"} | set(sys.stdlib_module_names)
    for name, path in modules().items():
        definition = within(name, "cola.families") and name.endswith((".spec", ".definition"))
        if name == STATISTICS:
            allowed_here = allowed | {"numpy", "scipy"}
            assert {target.split(".")[0] for _, target in imports(path)} <= allowed_here, path
        if definition or any(within(name, leaf) for leaf in (*LEAVES, "cola.study")):
            screen = {"rich"} if name.startswith("cola.terminal") else set()
            assert {target.split(".")[0] for _, target in imports(path)} <= allowed | screen, path


def test_folders_and_files_are_small_enough_to_read() -> None:
    sizes = Counter(folder_of(name) for name, path in modules().items() if not is_init(path))
    assert {folder: count for folder, count in sizes.items() if count > MOST_FILES} == {}
    lines = {path: lines_in(path) for path in modules().values() if not is_init(path)}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_the_picture_shows_every_folder() -> None:
    shown = picture()
    assert all(f"| {package}/" in shown for package in PACKAGES)


# "cola" is also the name of the command, of the package and of things that belong to them.
NO_FAMILY = {
    "cola/evaluation/harness/lm.py": "the harness's name of all our models",
    "orchestration/cluster/admission_actor.py": "namespace of the queue in Ray",
    "orchestration/remote/packaging.py": "the package",
    "orchestration/remote/jobs.py": "prefix of job ids",
    "orchestration/recipes/ray_up.py": "name of a container",
    "orchestration/remote/remote_status.py": "the command",
    "orchestration/remote/clusters.py": "the folder of the user's configuration",
    "orchestration/slurm/job.py": "the command",
    "sweeps/cli.py": "the command",
    "cola/logs.py": "the package's logger",
    "analysis/plotting/style.py": "salt of ids in figures",
}


def family_strings(path: Path) -> Iterator[str]:
    """Strings that name a built-in family, by themselves or as a key of a study."""
    names = {family.name for family in BUILT_IN}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            keys = node.value.split(".")
            if node.value in names or (keys[0] == "families" and names & set(keys)):
                yield node.value


def test_no_module_outside_the_families_names_one() -> None:
    found = {
        (str(path.relative_to(ROOT)), text)
        for name, path in modules().items()
        if not within(name, "cola.families")
        for text in family_strings(path)
    }
    assert {item for item in found if item[1] != "cola" or item[0] not in NO_FAMILY} == set()
    unused = NO_FAMILY.keys() - {name for name, _ in found}
    assert unused == set(), "these exceptions are no longer needed"


# File -> what it alone uses: private parts of libraries, writes to the environment.
PRIVATE = {
    "orchestration/compat/ray.py": (
        r"\bray\._|\bray\.core\b|\bray\.train\.v2\b|\b_raylet\b|\b_do_request\b"
    ),
    "orchestration/compat/deepspeed.py": (
        r"\b_hp_mapping\b|\b[hl]p_fragment_address\b|\bds_(tensor|numel)\b|\bpartition_numel\b"
        r"|\bgrad_position\b|\bget_param_id\b|\bfp32_partitioned_groups_flat\b"
        r"|\bsingle_partition_of_fp32_groups\b|\bcheckpoint_event_(pro|epi)logue\b"
        r"|__compatible_ops__|\boptimizer\.optimizer\b(?!\.)"
    ),
    "cola/process_environment.py": (
        r"os\.environ(\[[^\]]*\] *(=(?!=)|\|=)|\.(setdefault|update|pop)\(| *\|=)|del os\.environ"
        r"|os\.(un)?(set|put)env\("
    ),
}


def test_couplings_stay_in_one_file() -> None:
    found = {
        (file, str(path.relative_to(ROOT)))
        for path in modules().values()
        for text in [path.read_text()]
        for file, private in PRIVATE.items()
        if re.search(private, text)
    }
    assert found == {(file, file) for file in PRIVATE}
