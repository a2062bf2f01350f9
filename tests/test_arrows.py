"""The order of imports: between the packages, between the wings of pipeline/, and what must not be imported where."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("schemas", "reval", "pipeline", "flows")
# Lowest first. A wing imports those before it, and uses their queries.
WINGS = ("progress", "recipes", "children", "archive", "query", "verifiers", "engines", "inputs", "replay", "exchange")
WINGS += ("runs", "stages", "upkeep")
HEAVY = {"torch", "vllm", "prefect", "math_verify", "transformers"}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
MODULES = set(NAMES.values())
IN_WINGS = [path for path in sorted((ROOT / "pipeline").rglob("*.py")) if path != ROOT / "pipeline" / "__init__.py"]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules(tree: ast.AST, *, only_top: bool = False) -> set[str]:
    """Full names of the modules that are imported; `from a import b` is a.b where that is one of ours, otherwise a."""
    found = set()
    for node in ast.iter_child_nodes(tree) if only_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & MODULES) | ({node.module} if inside - MODULES else set())
    return found


def imported(tree: ast.AST, *, only_top: bool = False) -> set[str]:
    return {name.split(".")[0] for name in modules(tree, only_top=only_top)}


def wing(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


def before(name: str) -> set[str]:
    return set(WINGS[: WINGS.index(name) + 1])


def in_rooms(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=in_rooms)
def test_arrows_go_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(tree(path)) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", IN_WINGS, ids=in_rooms)
def test_a_wing_imports_those_before_it(path: Path) -> None:
    """Imports inside functions count."""
    found = {name.split(".")[1] for name in modules(tree(path)) if name.startswith("pipeline.")}
    assert found <= before(wing(path))


def test_no_two_files_import_one_another() -> None:
    """Nor three or more: files that import no other are removed again and again; what is left is a circle."""
    arrows = {name: modules(tree(path)) & MODULES for path, name in NAMES.items()}
    while free := {name for name, to in arrows.items() if not to}:
        arrows = {name: to - free for name, to in arrows.items() if name not in free}
    assert not arrows


def test_a_query_is_used_by_its_wing_or_one_above() -> None:
    owners = {path.stem: wing(path) for path in sorted((ROOT / "pipeline").rglob("sql/*.sql"))}
    used = set()
    for path in FILES:
        text = path.read_text()
        for name in (name for name in owners if re.search(rf"""["'/]{name}["']""", text)):
            used.add(name)
            if path.is_relative_to(ROOT / "pipeline"):
                assert owners[name] in before(wing(path)), f"{in_rooms(path)} uses {owners[name]}/sql/{name}.sql"
    # A name may be made from a part that varies: draw_RULE, brought_TABLE.
    assert {name for name in set(owners) - used if not name.startswith(("draw_", "brought_"))} == set()


def test_queries_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "pipeline").glob("*/sql/*.sql")]
    assert len(names) == len(set(names))


def test_no_two_classes_have_the_same_name() -> None:
    """So a name means the same in every file."""
    names = [node.name for path in FILES for node in tree(path).body if isinstance(node, ast.ClassDef)]
    assert [name for name, n in Counter(names).items() if n > 1] == []


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.py")), ids=lambda path: path.name)
def test_schemas_stand_on_the_standard_library_and_pyarrow(path: Path) -> None:
    assert imported(tree(path)) <= {*sys.stdlib_module_names, "pyarrow", "schemas"}


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=in_rooms)
def test_heavy_imports_wait(path: Path) -> None:
    process_of_its_own = path.name in ("vllm_worker.py", "math.py")
    assert process_of_its_own or not imported(tree(path), only_top=True) & HEAVY


def test_names_of_modules_in_strings_exist() -> None:
    """What is started as `python -m NAME`, and what a program in a string imports: neither ruff nor mypy sees these."""
    name = r"((?:pipeline|reval|flows|schemas|benchmarks|tests)(?:\.\w+)+)"
    whole, imports = re.compile(name), re.compile(rf"^(?:.*; )?(?:from|import) {name}", re.MULTILINE)
    rooms = [ROOT / name for name in (*LAYERS, "benchmarks", "tests")]
    for path in (path for room in rooms for path in sorted(room.rglob("*.py"))):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for found in imports.findall(node.value):
                    assert is_module(ROOT.joinpath(*found.split("."))), f"{in_rooms(path)}: {found}"
                if whole.fullmatch(node.value):
                    where = ROOT.joinpath(*node.value.split("."))
                    # pipeline.runs.processes.Processes.engine: a name inside a module, as monkeypatch has it.
                    there = any(map(is_module, (where, where.parent, where.parent.parent)))
                    assert there, f"{in_rooms(path)}: {node.value}"


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.slow
def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, flows.cli; sys.exit(bool({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
