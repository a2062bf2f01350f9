"""The arrows: flows → pipeline → reval → schemas. And what may not be imported where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("schemas", "reval", "pipeline", "flows")
HEAVY = {"torch", "vllm", "prefect", "math_verify", "transformers"}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(tree: ast.AST, *, only_top: bool = False) -> set[str]:
    nodes = ast.iter_child_nodes(tree) if only_top else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(ast.parse(path.read_text())) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.py")), ids=lambda path: path.name)
def test_schemas_stand_on_the_standard_library_and_pyarrow(path: Path) -> None:
    assert imported(ast.parse(path.read_text())) <= {*sys.stdlib_module_names, "pyarrow", "schemas"}


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: path.name)
def test_heavy_imports_wait(path: Path) -> None:
    process_of_its_own = path.name in ("vllm_worker.py", "math.py")
    assert process_of_its_own or not imported(ast.parse(path.read_text()), only_top=True) & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, flows.cli; sys.exit(bool({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
