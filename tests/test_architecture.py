"""Who may import whom (lazy imports included): the boundaries that keep the packages apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("cola", "orchestration", "sweeps", "analysis")
LEAVES = ("cola.spec", "cola.flops", "cola.records", "cola.families.registry")


# What has the torch-free and the torch half of each family, in its own folder.
FAMILIES = ("cola.families.ar", "cola.families.llada", "cola.families.cola")


def above(*names: str) -> set[str]:
    """What a part of `cola` does not know: these parts, and what holds whole families."""
    return {f"cola.{name}" for name in (*names, "study", "evaluation")}


# Folder -> modules that nothing in it may import.
FORBIDDEN = {
    "cola": {"ray", "deepspeed", "mlflow", "typer", "orchestration", "sweeps", "analysis"},
    "orchestration": {"sweeps", "analysis", *FAMILIES},
    "analysis": {"torch", "ray", "deepspeed", "transformers", "orchestration", "sweeps"},
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

# Module -> the only files that may import it.
RESERVED = {
    "deepspeed": {"orchestration/deepspeed_engine.py"},
    "mlflow": {
        "orchestration/mlflow_client.py",
        "orchestration/mlflow_runs.py",
        "analysis/runs.py",
    },
    "ray": {
        "orchestration/ray_train.py",
        "orchestration/cluster.py",
        "orchestration/admission_actor.py",
        "orchestration/jobs.py",
        "orchestration/processes.py",
        "orchestration/evaluation_workers.py",
        "sweeps/",
    },
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_forbidden_imports(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(folder)
        for line, module in imports(path)
        if any(within(module, banned) for banned in FORBIDDEN[folder])
    ]
    assert found == []


@pytest.mark.parametrize("package", RESERVED)
def test_heavy_packages_stay_in_their_modules(package: str) -> None:
    allowed = tuple(RESERVED[package])
    found = {
        str(path.relative_to(ROOT))
        for folder in PROJECT
        for path in sources(folder)
        for _, module in imports(path)
        if within(module, package)
    }
    strangers = sorted(name for name in found if not name.startswith(allowed))
    assert strangers == []
    assert found, f"nothing imports {package}: this rule guards nothing"


def test_analysis_knows_only_the_leaves_of_cola() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources("analysis")
        for line, module in imports(path)
        if within(module, "cola") and not any(within(module, leaf) for leaf in LEAVES)
    ]
    assert [item for item in found if not item.endswith("imports cola")] == []


def test_planning_needs_no_torch() -> None:
    """Imported in a fresh interpreter: what `cola plan` imports does not load torch or ray, and
    what a report asks the registry does not either."""
    import subprocess
    import sys

    code = (
        "import orchestration.plan, orchestration.catalog, analysis.variants, sys;"
        "from cola.families.registry import definitions;"
        "assert all(family.label for family in definitions());"
        "print(sorted({'torch', 'ray', 'deepspeed', 'mlflow'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_leaves_need_only_pydantic() -> None:
    allowed = {"pydantic", "pydantic_core", "yaml", "cola"}
    import sys

    leaves = ("spec", "study", "records.py", "flops.py", "sizing.py", "activations.py")
    families = ("registry.py", "*/spec.py", "*/specs.py", "*/definition.py", "cola/sizes.py")
    found = [ROOT / "cola" / leaf for leaf in leaves]
    found += [path for name in families for path in (ROOT / "cola/families").glob(name)]
    assert len(found) >= len(leaves) + 10
    for path in found:
        for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
            tops = {module.split(".")[0] for _, module in imports(source)}
            assert tops <= allowed | set(sys.stdlib_module_names), source


def test_no_two_packages_import_each_other() -> None:
    edges = {
        (folder, module.split(".")[0])
        for folder in PROJECT
        for path in sources(folder)
        for _, module in imports(path)
        if module.split(".")[0] in PROJECT and module.split(".")[0] != folder
    }
    assert [(a, b) for a, b in edges if (b, a) in edges] == []


# "cola" is also the name of the command, of the package and of things that belong to them.
NO_FAMILY = {
    "cola/evaluation/harness/lm.py": "the harness's name of all our models",
    "orchestration/admission_actor.py": "namespace of the queue in Ray",
    "orchestration/job_sources.py": "the package",
    "orchestration/jobs.py": "prefix of job ids",
    "orchestration/recipes.py": "name of a container",
    "orchestration/remote_status.py": "the command",
    "sweeps/cli.py": "the command",
    "analysis/plots.py": "salt of ids in figures",
}


def family_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Strings that name a built-in family, by themselves or as a key of a study."""
    from cola.families.registry import BUILT_IN

    names = {family.name for family in BUILT_IN}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            keys = node.value.split(".")
            if node.value in names or (keys[0] == "families" and names & set(keys)):
                yield node.lineno, node.value


def test_no_module_outside_the_families_names_one() -> None:
    found = {
        (name, text)
        for folder in PROJECT
        for path in sources(folder)
        if (name := str(path.relative_to(ROOT))) and not name.startswith("cola/families/")
        for _, text in family_strings(path)
    }
    assert {item for item in found if item[1] != "cola" or item[0] not in NO_FAMILY} == set()
    unused = NO_FAMILY.keys() - {name for name, _ in found}
    assert unused == set(), "these exceptions are no longer needed"


def project_imports(folder: str) -> dict[str, set[str]]:
    """Module -> modules of the project that it imports, lazily too."""
    names = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for package in PROJECT
        for path in sources(package)
    }
    return {
        name: {module for _, module in imports(path) if module in names and module != name}
        for path in sources(folder)
        for name in [
            str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        ]
    }


def test_no_two_modules_or_folders_of_families_and_specifications_import_each_other() -> None:
    edges = {
        (module, other)
        for module, others in project_imports("cola").items()
        for other in others
        if not other.startswith(module + ".")  # a package may gather its own modules
    }
    assert [(a, b) for a, b in edges if (b, a) in edges and a < b] == []
    parts = ("cola.spec", "cola.study", "cola.families")

    def folder(module: str) -> str:
        is_package = (ROOT / module.replace(".", "/")).is_dir()
        return module if is_package else module.rpartition(".")[0]

    between = {
        (folder(a), folder(b))
        for a, b in edges
        if folder(a) != folder(b) and a.startswith(parts) and b.startswith(parts)
    }
    assert [(a, b) for a, b in between if (b, a) in between] == []
