from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Top to bottom; a package may import those below it.
PACKAGES = {
    "rlkv": ROOT / "rlkv",
    "rlkv_service": ROOT / "service" / "rlkv_service",
    "rlkv_agents": ROOT / "agents" / "rlkv_agents",
    "rlkv_envs": ROOT / "envs" / "rlkv_envs",
    "rlkv_engine": ROOT / "engine" / "rlkv_engine",
}

#: What a server that imports the client must not have to install.
HEAVY = {
    "torch",
    "stable_baselines3",
    "sb3_contrib",
    "sklearn",
    "numba",
    "gymnasium",
    "matplotlib",
    "typer",
    "fastapi",
    "redis",
    "uvicorn",
}


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    order = list(PACKAGES)
    above = set(order[: order.index(package)])
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): up for f in files if (up := imported_packages(f) & above)}
    assert not wrong


@pytest.mark.parametrize("folder", ["envs", "agents", "engine", "service"])
def test_rooms_are_not_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()


def heavy_modules_after(statement: str) -> set[str]:
    """Modules of ``HEAVY`` that a fresh interpreter has loaded after ``statement``."""
    program = f"import sys\n{statement}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    path = [str(package.parent) for package in PACKAGES.values()]
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return HEAVY & set(process.stdout.split())


def test_the_service_package_imports_nothing_heavy() -> None:
    assert heavy_modules_after("import rlkv_service") == set()


def test_the_client_imports_nothing_heavy() -> None:
    assert heavy_modules_after("import rlkv_service.client") == set()


def test_building_the_command_line_imports_nothing_slow() -> None:
    heavy = heavy_modules_after("from rlkv.cli.app import build_app; build_app()")
    assert heavy <= {"typer"}
