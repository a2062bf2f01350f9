"""docs/commands.md: every command with its arguments and options, as typer has them."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import typer

from docs.generate.markdown import code, prose, table
from flows.cli import app

KINDS = {bool: "", str: "text", int: "integer", float: "number", Path: "path"}


def page() -> Iterator[str]:
    yield "# Commands"
    yield prose(str(app.info.help))
    panel = None
    for name, its_panel, command in named():
        if its_panel != panel:
            panel = its_panel
            yield f"## {panel}"
        arguments = [_argument(param) for param in command.params if _is_argument(param)]
        yield f"### {code(' '.join([name, *arguments]))}"
        yield prose(command.help or "")
        if rows := parameters(command):
            yield table(("", "value", "default", "meaning"), rows)


def named() -> Iterator[tuple[str, str, Any]]:
    """Each command's name, its panel and the command itself, in the order of `reval --help`."""
    top: Any = typer.main.get_command(app)
    for name in top.list_commands(None):
        command = top.commands[name]
        for inner in ("", *getattr(command, "commands", ())):
            found = command.commands[inner] if inner else command
            yield f"reval {name} {inner}".strip(), command.rich_help_panel, found


def parameters(command: Any) -> list[tuple[str, str, str, str]]:
    """How each parameter of a command is written, what it takes, its default and its meaning."""
    if hasattr(command, "commands"):  # a group of commands has none of its own
        return []
    rows, hints = [], get_type_hints(command.callback)
    for param in command.params:
        names = _argument(param).strip("[]") if _is_argument(param) else "`, `".join(param.opts)
        default = param.default.value if isinstance(param.default, Enum) else param.default
        shown = "required" if param.required else code(str(default)) if default else ""
        envvar = f" Also taken from `{param.envvar}` in the environment." if param.envvar else ""
        rows.append((code(names), _values(hints[param.name], param), shown, (param.help or "") + envvar))
    return rows


def _is_argument(param: Any) -> bool:
    return not param.opts[0].startswith("-")


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def _values(kind: Any, param: Any) -> str:
    """What a parameter takes, from its type in the command's signature: of `list[X] | None` it is X."""
    while get_origin(kind) in (list, UnionType):
        kind = get_args(kind)[0]
    if issubclass(kind, Enum):
        return ", ".join(code(word.value) for word in kind)
    bounds = [f"{sign} {bound}" for sign, bound in (("≥", param.min), ("≤", param.max)) if bound is not None]
    return " ".join([KINDS[kind], ", ".join(bounds)]).strip()
