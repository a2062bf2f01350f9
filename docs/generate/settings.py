"""docs/settings.md: every setting of a recipe, as the models of pipeline/recipes/config.py have it."""

import tomllib
from collections.abc import Iterator
from typing import Any

from docs.generate.markdown import code, prose, table, toml
from pipeline import recipes
from pipeline.recipes import config, schedules

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
INTRODUCTION = """
A recipe is a TOML file that sets some of these settings; the others have their defaults. `--recipe` takes the name of a
recipe that comes with reval, or the path of your own file. `--set train.beta=0.5` sets one setting on top of it.
"""
COMMANDS = """
Only `--set` overrides these. `reval retrain` sets its own on top of any recipe. `reval evaluate` sets its own when
`--benchmark` is given and `--recipe` is not; a policy of this archive keeps what its run had instead, except for
`evaluate.max_prompts`.
"""


def page() -> Iterator[str]:
    yield "# Settings"
    yield prose(INTRODUCTION)
    yield prose(str(config.__doc__).split("\n\n", 1)[1])
    defaults: dict[str, Any] = {}
    for path, section in sections():
        fields = {f"{path}.{name}".strip("."): field for name, field in own(section).items()}
        defaults |= {name: field["default"] for name, field in fields.items()}
        yield f"{'#' * (2 + path.count('.'))} {path or 'At the top, outside any section'}"
        if "description" in section:
            yield prose(section["description"])
        if fields:
            rows = (
                (code(name), values(field), _shown(field["default"]), meaning(field)) for name, field in fields.items()
            )
            yield table(("setting", "value", "default", "meaning"), rows)
    yield "## Schedules"
    yield prose(f"Some numbers can change from iteration to iteration: {schedules.FORMS}.")
    yield from _differences(defaults)


def sections() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each section of the settings by its dotted name, with its JSON schema."""
    schema = config.Config.model_json_schema()
    yield from _sections(schema, schema["$defs"], "")


def _sections(schema: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema["properties"].items():
        if "$ref" in field:
            yield from _sections(defs[field["$ref"].rpartition("/")[2]], defs, f"{path}.{name}".strip("."))


def own(section: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a section, without the sections in it. A recipe's name is its file's and is not set."""
    return {name: field for name, field in section["properties"].items() if "$ref" not in field and name != "recipe"}


def meaning(field: dict[str, Any]) -> str:
    return str(field.get("description", ""))


def values(field: dict[str, Any]) -> str:
    """What a setting may be, from its JSON schema."""
    if parts := [part for part in field.get("anyOf", ()) if part.get("type") != "null"]:
        if any("$ref" in part for part in parts):  # a schedule: its forms are explained once
            parts = [{"type": "[schedule](#schedules)"}, *(part for part in parts if "const" in part)]
        return " or ".join(map(values, parts))
    if words := field.get("enum") or ([field["const"]] if "const" in field else []):
        return ", ".join(code(toml(word)) for word in words)
    if field["type"] == "array":
        return f"list of {values(field['items'])}"
    if field["type"] == "object":
        return f"table of {values(field['additionalProperties'])}"
    bounds = [
        f"{sign} {'2³¹' if field[name] == 2**31 else field[name]}" for name, sign in BOUNDS.items() if name in field
    ]
    return " ".join([field["type"].replace("string", "text"), ", ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    return "not set" if value is None else code(toml(value))


def _differences(defaults: dict[str, Any]) -> Iterator[str]:
    """What the recipes that come with reval set, where it is not the default; and what two commands set."""
    texts = {name: (recipes.FOLDER / f"{name}.toml").read_text() for name in recipes.names()}
    yield "## What the recipes set"
    for name, text in texts.items():
        opening = text.split("\n\n")[0].splitlines()
        yield prose(f"**{name}**: " + " ".join(line[2:] for line in opening if line.startswith("# ")))
    yield _side_by_side({code(name): _flat(tomllib.loads(text), defaults) for name, text in texts.items()}, defaults)
    yield "## What two commands set"
    yield prose(COMMANDS)
    yield _side_by_side({"`reval retrain`": recipes.RETRAIN, "`reval evaluate`": recipes.BENCHMARK}, defaults)


def _flat(tree: dict[str, Any], defaults: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The settings of a recipe by dotted name."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        dotted = f"{path}.{name}".strip(".")
        found |= {dotted: value} if dotted in defaults else _flat(value, defaults, dotted)
    return found


def _side_by_side(given: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> str:
    rows = []
    for name, default in defaults.items():
        set_ = [each.get(name, default) for each in given.values()]
        if any(value != default for value in set_):
            rows.append((code(name), _shown(default), *("" if value == default else _shown(value) for value in set_)))
    return table(("setting", "default", *given), rows)
