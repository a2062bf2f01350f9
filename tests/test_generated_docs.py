"""The generated pages of docs/ are what the code says, and everything in them has a meaning."""

import pytest

from docs.generate import FOLDER, PAGES, commands, settings, tables, text, tour
from flows.cli.app import PANEL_OF
from pipeline.query import db
from schemas import TABLES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == text(name), f"docs/{name} is not what the code says: run make docs"


def test_commands_and_their_parameters_have_a_meaning() -> None:
    found = list(commands.named())
    assert {name.split()[1] for name, _, _ in found} == set(PANEL_OF)
    for name, _, command in found:
        assert command.help, f"{name} has no docstring"
        for parameter, _, _, meaning in commands.parameters(command):
            assert meaning, f"{name} {parameter} has no help"


def test_settings_have_a_meaning() -> None:
    for path, section in settings.sections():
        assert not path or section.get("description"), f"section {path} has no docstring"
        for name, field in settings.own(section).items():
            assert settings.meaning(field), f"{path}.{name} has no docstring under it"


def test_columns_and_words_have_a_meaning() -> None:
    for one in TABLES.values():
        assert all([one.doc, *(column.doc for column in one.columns)]), one.name
    for words in tables.words():
        assert all(word.doc for word in words), words.__name__


@pytest.mark.parametrize("name", db.VIEWS)
def test_the_comment_of_a_view_explains_its_columns(name: str) -> None:
    opening, meanings = tables.comment(db.sql(f"views/{name}"))
    assert opening
    columns = tables.columns()[name]
    assert [column for column in columns if not meanings.get(column)] == [], "the opening comment does not explain these"
    assert [column for column in meanings if column not in columns] == [], "these are not columns of the view"


def test_modules_begin_with_a_sentence() -> None:
    for room, files in tour.rooms().items():
        assert tour.docstring(room / "__init__.py"), f"{room}/__init__.py does not say what the folder is for"
        for file in files:
            assert tour.first_line(file).endswith((".", ":", "?")), f"{file}: its first line is not a sentence"
