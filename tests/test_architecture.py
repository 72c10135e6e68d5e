"""Who may import whom, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "strategies": {"server", "trainer", "clients", "benchmarks", "fastapi", "httpx", "vllm"},
    "server": {"vllm", "trainer"},
    "trainer": {"server"},
    "clients": {"server", "strategies", "trainer", "vllm"},
    "benchmarks": {"server", "strategies", "trainer", "vllm"},
    "deploy": {"strategies", "clients", "benchmarks", "trainer", "vllm"},
}
"""By package: the packages that no module of it imports, whether at its top, in a function, or for types alone."""

ALLOWED = {"trainer": {"server.models"}, "benchmarks": {"trainer.grading", "trainer.tasks"}}
"""By package: modules that it may import all the same. What finds a model by its name imports nothing of the server."""

MAY_IMPORT_VLLM = (
    "server/engine/",
    "server/vllm_api.py",
    "strategies/srgen/",
    "benchmarks/mock_engine.py",
    "benchmarks/bare_vllm.py",
    "deploy/ray_engine.py",
    "benchmarks/peers/seen_calls.py",
    "benchmarks/vllm_bench.py",
)
"""Paths, or beginnings of them: the engine's modules, the one that mounts vLLM's serving classes, SRGen's own part,
the benchmarks' vLLM plugins, which vLLM loads into the servers that the benchmarks talk to, and the
replica that is vLLM."""


def imports(source: str, package: str) -> Iterator[str]:
    """The absolute names of all modules that a module of this package imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: -(node.level - 1) or None]) if node.level else ""
            yield ".".join(filter(None, [base, node.module]))
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def violations(root: Path, package: str) -> list[str]:
    """`path: module` for each import of a package that its rules forbid."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        forbidden = FORBIDDEN[package] - ({"vllm"} if name.startswith(MAY_IMPORT_VLLM) else set())
        parent = ".".join(path.relative_to(root).parent.parts)
        found += [
            f"{name}: {module}"
            for module in imports(path.read_text(encoding="utf-8"), parent)
            if module.split(".")[0] in forbidden
        ]
    return [one for one in found if one.split(": ")[1] not in ALLOWED.get(package, ())]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    assert violations(ROOT, package) == []


@pytest.mark.parametrize("package", ["strategies", "server", "clients"])
def test_there_is_something_to_check(package: str) -> None:
    assert len(list((ROOT / package).rglob("*.py"))) > 5


def test_places_that_may_import_vllm_do() -> None:
    """Else the list is out of date, and lets something pass that it should not."""
    for place in MAY_IMPORT_VLLM:
        path = ROOT / place
        files = [path] if path.suffix else list(path.rglob("*.py"))
        if files:
            modules = [module for file in files for module in imports(file.read_text(encoding="utf-8"), "any")]
            assert any(module.split(".")[0] == "vllm" for module in modules), place


@pytest.mark.parametrize(
    ("path", "source", "forbidden"),
    [
        ("strategies/a.py", "import server", "server"),
        ("strategies/a.py", "import os, httpx as h", "httpx"),
        ("strategies/a/b.py", "from fastapi.responses import Response", "fastapi.responses"),
        ("strategies/a.py", "def f():\n    from vllm import LLM", "vllm"),
        ("strategies/a.py", "if TYPE_CHECKING:\n    import trainer.run", "trainer.run"),
        ("strategies/a.py", "import importlib\nimportlib.import_module('vllm.v1')", "vllm.v1"),
        ("strategies/srgen/a.py", "import vllm\nimport server.app", "server.app"),
        ("server/routes/a.py", "from vllm.outputs import RequestOutput", "vllm.outputs"),
        ("server/engines.py", "import vllm", "vllm"),
        ("server/app.py", "import trainer", "trainer"),
        ("trainer/a.py", "from server.engine import embedded", "server.engine"),
        ("clients/a/b.py", "from strategies import Note", "strategies"),
        ("benchmarks/a.py", "import server.settings", "server.settings"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, source: str, forbidden: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert violations(tmp_path, path.split("/")[0]) == [f"{path}: {forbidden}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("strategies/a.py", "from strategies.base import Task\nimport servers, vllm_of_others"),
        ("strategies/a/b.py", "from . import server\nfrom .server import x\nfrom ..trainer import y"),
        ("strategies/a.py", "'''import server'''\n# import vllm"),
        ("strategies/srgen/a.py", "import vllm"),
        ("server/engine/a.py", "import vllm.v1"),
        ("server/vllm_api.py", "import vllm\nfrom strategies import run"),
        ("trainer/a.py", "from strategies.engine import Engine\nimport vllm"),
        ("clients/a.py", "import httpx, openai\nfrom clients.client import Redraft"),
    ],
)
def test_an_allowed_import_is_not(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert violations(tmp_path, path.split("/")[0]) == []
