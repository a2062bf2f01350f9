"""Generated SQL agrees with Python: settings, names of passes, tables."""

import json
import re
from functools import reduce
from operator import getitem
from typing import get_args

import pytest

from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.query.generated import SETTINGS, default
from pipeline.recipes.config import Config, recorded
from schemas import TABLES, pass_name
from schemas.enums import Verdict
from tests.helpers.archives import plant

ROOT = db.PIPELINE.parent
QUERIES = [*sorted(db.PIPELINE.rglob("*.sql")), *sorted((ROOT / "benchmarks").rglob("*.sql"))]


def settings(store: Store) -> dict[str, dict[str, object]]:
    """The settings of each run in run_settings, by dotted name."""
    rows = db.connect(store, only="run_settings").sql("FROM run_settings").to_arrow_table().to_pylist()
    return {row["run_id"]: {name: row[name.replace(".", "_")] for name in SETTINGS} for row in rows}


def planted(tmp_path, **runs: str) -> Store:
    store = Store.create(tmp_path / "archive")
    plant(store, "runs", *({"run_id": name, "config": config} for name, config in runs.items()))
    return store


def test_settings_are_those_of_the_run(trained) -> None:
    store = Store(trained.archive)
    found = settings(store)
    rows = db.query(store, "runs_recorded").to_pylist()
    assert {row["run_id"] for row in rows} == set(found) == {"arithmetic", "again"}
    for row in rows:
        record = recorded(row["recipe"], row["config"]).record()
        theirs = {name: reduce(getitem, name.split("."), record) for name in SETTINGS}
        ours = found[row["run_id"]]
        assert json.loads(str(ours.pop("train.learning_rate"))) == theirs.pop("train.learning_rate")
        assert ours == theirs


def test_a_record_from_before_a_setting_has_its_default(tmp_path) -> None:
    (found,) = settings(
        planted(tmp_path, old='{"train": {"beta": 0.30000000000000004}, "reward": {"wrong": -1}}')
    ).values()
    defaults = {name: default(name) for name in SETTINGS}
    assert found == {**defaults, "train.beta": 0.1 + 0.2, "reward.wrong": -1.0, "train.learning_rate": "0.0003"}
    assert defaults["generate.temperature"] == 1.0
    assert defaults["reward.correct"] is None


def test_only_settings_without_a_default_may_be_null() -> None:
    """The view does not tell a recorded null from a setting that is not recorded."""
    for setting in SETTINGS:
        section, name = setting.split(".")
        kind = Config.model_fields[section].annotation.model_fields[name].annotation
        assert (type(None) in get_args(kind)) == (default(setting) is None), setting


def test_a_schedule_is_there_as_json(tmp_path) -> None:
    schedule = {"kind": "linear", "start": 0.5, "end": 0.25, "iterations": 3}
    config = Config(recipe="r", train={"learning_rate": schedule}).record_json()
    (found,) = settings(planted(tmp_path, ramp=config)).values()
    assert json.loads(str(found["train.learning_rate"])) == schedule


def test_a_setting_that_recipes_do_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match="bate"):
        default("train.bate")


def test_no_query_looks_into_json_or_cuts_names() -> None:
    """Settings are columns of run_settings, and passes are in pass_names. How a file was imported is JSON too."""
    assert len(QUERIES) > 70
    for path in QUERIES:
        code = re.sub(r"--.*", "", path.read_text())
        assert path.stem == "imports_of" or not re.search(r"json|->>|\$\.", code), path
        assert not re.search(r"(regexp\w*|split_part|string_split)\(\w*\.?pass_id", code), path


def test_every_verdict_has_its_worth() -> None:
    query = (db.PIPELINE / "upkeep/sql/checks/draws_draw_something.sql").read_text()
    assert re.findall(r"WHEN '(\w+)' THEN r.reward_(\w+)", query) == [(verdict, verdict) for verdict in Verdict]


def test_passes_are_named_as_python_names_them(tmp_path) -> None:
    """Also for a run whose name ends in a number, the pass after the last finished one, and a run without passes."""
    store = planted(tmp_path, **{"a": "{}", "a-2": "{}", "new": "{}"})
    done = [("a", 1), ("a", 2), ("a-2", 10_000)]
    plant(store, "passes", *({"pass_id": pass_name(*key), "run_id": key[0], "iteration": key[1]} for key in done))
    rows = db.connect(store, only="pass_names").sql("SELECT pass_id, run_id, iteration FROM pass_names").fetchall()
    assert len(rows) == len({row[0] for row in rows})
    assert all(name == pass_name(run, iteration) for name, run, iteration in rows)
    newest = {run: max(iteration for _, of, iteration in rows if of == run) for run in ("a", "a-2", "new")}
    assert newest == {"a": 3, "a-2": 10_001, "new": 1}


def test_tables_are_counted(trained) -> None:
    connection = db.connect(Store(trained.archive))
    found = db.rows(connection, "tables_status").to_pylist()
    assert [row["name"] for row in found] == list(TABLES)
    for row in found:
        assert connection.execute(f'SELECT count(*) FROM "{row["name"]}"').fetchone() == (row["n_rows"],)
