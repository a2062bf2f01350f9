"""The hand-written pages stay true: commands, settings, queries, programs, transcripts and links in them work.

`docs/commands.md`, `settings.md`, `tables.md` and `tour.md` are made from the code and have a test of their own.
"""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from flows.cli import app
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.recipes import RETRAIN, load
from pipeline.recipes.config import RULES, Config, Train
from pipeline.verifiers import IMPORTED, NAMES, REWARDS
from schemas.enums import Verdict
from tests.helpers.command import invoke

ROOT = Path(__file__).parent.parent
GENERATED = {"commands.md", "settings.md", "tables.md", "tour.md"}
WRITTEN = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *WRITTEN]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "reval" / "README.md", ROOT / "benchmarks" / "LOG.md"]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are in this language."""
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page as words: its `sh` blocks, and what follows a `$` in its `console` blocks."""
    for text in blocks(page, "sh"):
        yield from split(text)
    for text in blocks(page, "console"):
        for shown in re.findall(r"^\$ (.*\n(?:    .*\n)*)", text, re.M):
            yield from split(shown)


def split(text: str) -> Iterator[list[str]]:
    """Command lines as words. A quotation may go on in the next line; a comment is left out."""
    line = ""
    for part in text.splitlines():
        line = f"{line}\n{part}" if line else part
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # the quotation is not closed yet
            continue
        line = ""
        if words:
            yield words
    assert not line, f"a quotation is not closed: {line}"


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a `reval` command, which is not run. What typer would refuse is an error."""
    found: list[tuple[str, dict[str, Any]]] = []

    def stub(group: Any, above: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                stub(command, f"{name} ")
            else:
                command.callback = partial(lambda name, **params: found.append((name, params)), above + name)

    reval = typer.main.get_command(app)  # a new one each time, so that the stubs stay here
    stub(reval, "")
    reval.main(words, standalone_mode=False)
    return found[0]


SHOWN = [(page.name, words) for page in PAGES for words in commands(page)]
REVAL = [pytest.param(words[1:], id=f"{name}: {' '.join(words)[:60]}") for name, words in SHOWN if words[0] == "reval"]


@pytest.mark.parametrize("words", REVAL)
def test_command_and_settings_are_known(words: list[str]) -> None:
    name, params = parse(words)
    lines = params.get("set_") or []
    assert isinstance(load("arithmetic", lines, defaults=RETRAIN if name == "retrain" else {}), Config)


def test_other_commands_are_known() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    deployments = (ROOT / "prefect.yaml").read_text()
    for page, words in SHOWN:
        if words[0] == "make":
            assert words[1] in targets, f"{page}: {words}"
        elif words[:3] == ["prefect", "deployment", "run"]:
            assert f"  - name: {words[3].removeprefix('reval/')}\n" in deployments, f"{page}: {words}"
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), f"{page}: {words}"
        elif "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), f"{page}: {words}"
        else:
            assert words[0] == "reval" or words == ["source", ".venv/bin/activate"], f"{page}: {words}"


@by_name
def test_commands_in_the_text_are_known(page: Path) -> None:
    """Commands between backticks: `reval plan`, with its options."""
    known = typer.main.get_command(app).commands
    for name, rest in re.findall(r"`reval ([a-z]+)([^`]*)`", page.read_text()):
        assert name in known, f"{page.name}: reval {name}"
        assert set(re.findall(r"--[a-z-]+", rest)) <= options(known[name]), f"{page.name}: reval {name}{rest}"
    for module in re.findall(r"`python -m ([\w.]+)", page.read_text()):
        assert importlib.util.find_spec(module), f"{page.name}: {module}"


def options(command: Any) -> set[str]:
    """The options of a command, or of any command of a group."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(options(below) for below in getattr(command, "commands", {}).values()))


@by_name
def test_settings_are_known(page: Path) -> None:
    """Settings in a recipe on a page, and settings between backticks: `train.beta`."""
    for text in blocks(page, "toml"):
        assert Config(recipe="shown", **tomllib.loads(text))
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]+)?`", page.read_text()):
        if hasattr(sections.get(section), "model_fields"):
            assert key in sections[section].model_fields, f"{page.name}: {section}.{key}"


def test_queries_run(trained: SimpleNamespace) -> None:
    store = Store(trained.archive)
    statements = [(page, words[-1]) for page, words in SHOWN if words[:2] == ["reval", "sql"]]
    assert len(statements) > 8
    for page, statement in statements:
        assert db.ask(store, statement).read_all().num_columns, f"{page}: {statement}"


def test_the_query_on_the_front_page_has_these_columns(trained: SimpleNamespace) -> None:
    (shown,) = (text for text in blocks(PAGES[0], "console") if "reval sql" in text)
    (words,) = (words for words in commands(PAGES[0]) if words[:2] == ["reval", "sql"])
    names = shown.split('BY ALL"\n')[1].split("\n")[0].split()
    assert db.ask(Store(trained.archive), words[2]).read_all().column_names == names


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_programs_run(page: Path, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with an archive whose newest policy replaces the one on the page."""
    monkeypatch.chdir(trained.archive.parent)
    names: dict[str, Any] = {}
    for text in blocks(page, "python"):
        exec(text.replace("arithmetic-0015", "arithmetic-0002"), names)
    if page.name == "archive.md":
        assert (names["verdicts"]["len"].sum(), names["lengths"].num_rows, len(names["by_policy"])) == (96, 96, 2)


def test_scores_have_these_columns(trained: SimpleNamespace) -> None:
    (shown,) = (text for text in blocks(ROOT / "docs" / "evaluate.md", "console") if "reval evaluate" in text)
    names = db.query(Store(trained.archive), "scores_of", policy_id="arithmetic-0002").column_names
    assert [line.split() for line in shown.splitlines() if line.startswith("policy_id")] == [names]


def test_the_model_is_where_the_front_page_says(trained: SimpleNamespace) -> None:
    assert "`archive/weights/<policy_id>`" in PAGES[0].read_text()
    assert (trained.archive / "weights" / "arithmetic-0002" / "config.json").is_file()


def test_the_plan_is_what_plan_says() -> None:
    """Line by line; an ellipsis stands for lines left out."""
    (shown,) = (text for text in blocks(ROOT / "docs" / "replay.md", "console") if "reval plan" in text)
    said = [line.rstrip() for line in invoke("plan", "--recipe", "paper-1.5b").stdout.splitlines()]
    lines = [line.strip() for line in shown.splitlines()[1:] if line.strip() not in ("…", "")]
    assert len(lines) > 8
    assert [line for line in said if line in lines] == lines


@pytest.mark.slow
def test_judging_again_says_what_it_shows(tmp_path: Path) -> None:
    """Except for seconds, which depend on the machine."""
    data = ROOT.parent / "shared" / "data" / "gsm8k"
    if not data.exists():
        pytest.skip("no labelled solutions here")
    (shown,) = (text for text in blocks(ROOT / "docs" / "verifiers.md", "console") if "reval rescore" in text)
    archive = ("--archive", str(tmp_path / "archive"))
    invoke("import", "prompts", str(data / "test.jsonl"), *archive)
    invoke("import", "rollouts", str(data / "example_model_solutions.jsonl"), *archive)
    said = invoke("rescore", "--verifier", "gsm8k", *archive).stdout

    def counts(text: str) -> list[list[str]]:
        rows = [line.split() for line in text.splitlines()]
        return [row[:2] for row in rows if row and row[0] in set(Verdict)] + [
            row for row in rows if row[:1] == ["imported"]
        ]

    assert counts(said) == counts(shown)
    assert len(counts(shown)) == 4


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a page's tables, without the lines under headings."""
    found = [re.split(r"(?<!\\)\|", line.strip("|")) for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in found if set("".join(row)) != {"-"}]


def listed(text: str, heading: str) -> set[str]:
    """What stands between backticks in the first column of the table under a heading of this first column."""
    table = next(part for part in re.split(r"\n\n+", text) if part.startswith(f"| {heading} |"))
    return {name for row in rows(table) for name in re.findall(r"`([^`]+)`", row[0])}


def test_tables_are_complete() -> None:
    """The tables of verifiers, verdicts with their rewards, draw rules, objectives and views."""
    assert {name.split(":")[0] for name in listed(read("verifiers.md"), "verifier")} == {*NAMES, IMPORTED}
    shown = {row[0].strip("`"): row[2] for row in rows(read("verifiers.md")) if row[0].strip("`") in set(Verdict)}
    worth = {word: "none" if reward is None else f"{reward:g}" for word, reward in REWARDS.items()}
    assert shown == worth
    assert listed(read("replay.md"), "rule") == set(RULES)
    objectives = Train.model_fields["objective"].annotation
    assert listed(read("training.md"), "`train.objective`") - {"train.objective"} == set(objectives.__args__)
    assert listed(read("query.md"), "view") == set(db.VIEWS)


def test_every_page_is_in_the_index() -> None:
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert names <= set(re.findall(r"\]\((\w+\.md)\)", read("README.md")))


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Links lead to a file of the repository, and to a heading in it if one is named."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        address, _, anchor = link.partition("#")
        target = page.parent / address if address else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}, link


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_in_the_text_exist(page: Path) -> None:
    """Paths of this repository between backticks, NAME being any; the log also names files that are gone."""
    if page.name == "LOG.md":
        return
    for path in re.findall(
        r"`((?:benchmarks|docs|examples|flows|pipeline|reval|schemas|tests)/[\w./*-]+)`", page.read_text()
    ):
        assert list(ROOT.glob(path.replace("NAME", "*"))), f"{page.name}: {path}"


def test_what_is_added_to_is_where_contributing_says() -> None:
    """`NAMES` in `pipeline/verifiers/__init__.py`: such a name is defined there."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    named = re.findall(r"`(\w+)` in `([\w./]+\.py)`", text)
    assert len(named) > 10
    for name, path in named:
        assert re.search(rf"(class |def |^ *){name}\b *[(:=]", (ROOT / path).read_text(), re.M), f"{path}: {name}"


def test_the_front_page_is_one_page() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 120


def test_lines_are_folded() -> None:
    """Except for tables and code."""
    for page in LINKED:
        prose = FENCED.sub("", page.read_text())
        long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "    "))]
        assert not long, f"{page.name}: {long[0]}"


def test_constraints_name_no_place() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run", "prefect.yaml"):
        urls = re.findall(r"\b\w+://[^\s\"']+", (ROOT / name).read_text())
        assert all(url.startswith("http://127.0.0.1") for url in urls), name
