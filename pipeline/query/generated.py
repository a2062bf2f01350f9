"""SQL that is made from declarations in Python: settings of recipes, names of passes, tables of schemas."""

import json
from functools import reduce
from operator import getitem
from typing import Any

from pipeline.recipes.config import Config
from schemas import TABLES
from schemas.enums import Verdict
from schemas.ids import PASS_NAME

# The settings that queries use, with their types in SQL. The column of train.beta is train_beta.
SETTINGS = {
    "policy.base": "VARCHAR",
    "generate.samples_per_prompt": "BIGINT",
    "generate.temperature": "DOUBLE",
    "score.verifier": "VARCHAR",
    **{f"reward.{verdict}": "DOUBLE" for verdict in Verdict},
    "reward.length_penalty": "DOUBLE",
    "train.beta": "DOUBLE",
    "train.learning_rate": "VARCHAR",  # as JSON: it may be a schedule
    "train.max_grad_norm": "DOUBLE",
    "train.precision": "VARCHAR",
}


def default(setting: str) -> Any:
    """The default value of a setting, by its dotted name, as in the record of a run whose recipe does not set it.

    Raises:
        KeyError: a run's record has no such setting.
    """
    return reduce(getitem, setting.split("."), Config(recipe="").record())


# Made on import: if a setting is renamed or removed, every command and test stops, and no view has null for it.
DEFAULTS = {setting: default(setting) for setting in SETTINGS}


def run_settings() -> str:
    """The SQL of the view of runs with settings as columns."""
    kept = [column.name for column in TABLES["runs"].columns if column.name != "config"]
    meanings = "\n".join(f"--   {setting.replace('.', '_')}    the setting {setting}" for setting in SETTINGS)
    columns = ",\n    ".join([*kept, *(_column(i, setting) for i, setting in enumerate(SETTINGS, start=1))])
    paths = ", ".join(f"'$.{setting}'" for setting in SETTINGS)
    return f"""\
-- run_settings: one row per run, as in the table runs, with the settings that queries use as columns. A setting that did
-- not exist when the run began has its default, which is what was done then. No order.
--   {", ".join(kept)}    as in runs
{meanings}
SELECT
    {columns}
FROM (SELECT {", ".join(kept)}, json_extract_string(config, [{paths}]) AS recorded FROM runs)
"""


def _column(place: int, setting: str) -> str:
    """SQL for a setting from the list `recorded`, where it is text. Null there: it is null or was not recorded."""
    value, default = f"recorded[{place}]", DEFAULTS[setting]
    if default is not None:
        text = default if isinstance(default, str) else json.dumps(default)
        value = f"coalesce({value}, '{text}')"
    return f"{value}::{SETTINGS[setting]} AS {setting.replace('.', '_')}"


def pass_names() -> str:
    """The SQL of the view that says which run and iteration a pass belongs to, trained or not."""
    return f"""\
-- pass_names: one row per training pass of a run, from the first to the next one. Draws are written before their pass is
-- in the table passes; this view says which run they belong to. No order.
--   pass_id, run_id, iteration    as in passes
WITH begun AS (
    SELECT r.run_id, unnest(range(1, coalesce(max(p.iteration), 0) + 2)) AS iteration
    FROM runs r
    LEFT JOIN passes p USING (run_id)
    GROUP BY r.run_id
)
SELECT format('{PASS_NAME}', run_id, iteration) AS pass_id, run_id, iteration
FROM begun
"""


def tables_status() -> str:
    """The SQL of the query for the number of rows of each table."""
    counts = ",\n    ".join(f"({i}, '{name}', (SELECT count(*) FROM \"{name}\"))" for i, name in enumerate(TABLES))
    return f"""\
-- No inputs. One row per table with its number of rows, in the order of schemas.
SELECT name, n_rows
FROM (VALUES
    {counts}
) AS t (place, name, n_rows)
ORDER BY place
"""


# The functions whose result `db.sql` returns for these names.
GENERATED = {"views/run_settings": run_settings, "views/pass_names": pass_names, "tables_status": tables_status}
