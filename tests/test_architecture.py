"""Who may import whom (lazy imports included): the boundaries that keep the packages apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("cola", "orchestration", "sweeps", "analysis")
LEAVES = ("cola.spec", "cola.flops", "cola.records")


def above(*names: str) -> set[str]:
    """What a part of `cola` does not know: these parts, and evaluation, which knows families."""
    return {f"cola.{name}" for name in (*names, "evaluation")}


# Folder -> modules that nothing in it may import.
FORBIDDEN = {
    "cola": {"ray", "deepspeed", "mlflow", "typer", "orchestration", "sweeps", "analysis"},
    "orchestration": {"sweeps", "analysis"},
    "analysis": {"torch", "ray", "deepspeed", "transformers", "orchestration", "sweeps"},
    "cola/data": above("models", "families", "objectives", "sampling", "likelihood"),
    "cola/models": above("families", "objectives", "sampling", "likelihood", "data"),
    "cola/objectives": above("families", "sampling", "likelihood", "data"),
    "cola/sampling": above("families", "objectives", "likelihood", "data"),
    "cola/likelihood": above("families", "sampling", "data"),
    "cola/families": above("data"),
    "cola/evaluation": {"cola.models", "cola.sampling", "cola.likelihood"},
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
    """Imported in a fresh interpreter: what `cola plan` imports does not load torch or ray."""
    import subprocess
    import sys

    code = (
        "import orchestration.plan, orchestration.catalog, sys;"
        "print(sorted({'torch', 'ray', 'deepspeed', 'mlflow'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_leaves_need_only_pydantic() -> None:
    allowed = {"pydantic", "yaml", "cola"}
    import sys

    for leaf in ("spec", "flops", "records.py", "flops.py", "sizing.py"):
        path = ROOT / "cola" / leaf
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
