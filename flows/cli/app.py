"""Shared by all `reval` commands: options, tables, and user errors as one line with exit code 2."""

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.errors import one_line
from pipeline.archive.layout import ARCHIVE
from schemas import UserError

# The commands as `reval --help` and docs/commands.md show them.
PANELS = {
    "Train": ("iterate", "retrain", "plan", "init", "up"),
    "Ask the archive": ("status", "sql", "lineage", "snapshots", "tag", "diff"),
    "Judge and evaluate": ("verifiers", "rescore", "evaluate"),
    "Bring in and take out": ("import", "export"),
    "Look after the archive": ("check", "repeat", "compact", "vacuum", "prune"),
    "Stage by stage": ("generate", "score", "draw", "reference", "train"),
}
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


class _Commands(typer.core.TyperGroup):
    """Lists the commands in the order of `PANELS`, not of the imports."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(PANEL_OF).index)


app = typer.Typer(
    cls=_Commands,
    help="Offline RL for language models; the replay buffer is a versioned dataset on disk.\n\n"
    "Begin with `reval iterate`, which trains a small model on sums from start to finish. Then ask the archive: "
    '`reval sql "SELECT * FROM progress ORDER BY run_id, iteration"`. '
    "Then train again from the same rollouts, without generating new ones: `reval retrain`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Archive = Annotated[
    str, typer.Option("--archive", "-a", help="The archive: a folder, or s3://bucket/folder.", envvar="REVAL_ARCHIVE")
]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="A recipe's name, or the path of a TOML file.")]
RunName = Annotated[
    str | None,
    typer.Option("--run", help="The run's name. Default: the unfinished run with these settings, or a new one."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="One setting on top of the recipe: section.key=value. Can be given again."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the engine and the trainer print.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        help="Use the archive as it was at a snapshot, a label, or a time (2026-11-22T18:00, UTC). Default: now.",
    ),
]
Where = Annotated[
    str,
    typer.Option(
        help="Only rollouts for which this SQL condition over the view rollouts is true, written as after WHERE."
    ),
]
DEFAULT_ARCHIVE = ARCHIVE


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The function with errors as one line: exit code 2 for a user's mistake, 1 for a full disk or a killed child."""

    @wraps(function)
    def inner(*args: Any, **kwargs: Any) -> None:
        from pipeline.progress import ConsoleHandler, console, log

        log.handlers = [ConsoleHandler()]
        log.propagate = False  # prefect's own console handler would print it again
        try:
            function(*args, **kwargs)
        except Exception as error:
            if (line := one_line(error) or _without_prefect()) is None:
                raise
            traceback.clear_frames(error.__traceback__)  # else DuckDB complains about objects in them at exit
            console.print(f"reval: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
            code = 2 if isinstance(error, UserError) else 1
            _leave_without_prefect(code)
            raise typer.Exit(code) from None
        _leave_without_prefect(0)

    return inner


def _without_prefect() -> str | None:
    """The message if the process's Prefect server died; None: it did not."""
    server = sys.modules.get("flows.server")
    if server is None or not server.gone.is_set():
        return None
    return (
        "its Prefect server died, and so it ends; the archive has all that was done: the same command goes on from there"
    )


def _leave_without_prefect(code: int) -> None:
    """Ends the process at once if its Prefect server died: else Prefect would try to reach it for minutes at exit."""
    if _without_prefect():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Adds a function to the app as a command."""
    return app.command(rich_help_panel=PANEL_OF[function.__name__])(guarded(function))


def myself() -> str:
    """The `reval` command as a user can type it here."""
    return "reval" if shutil.which("reval") or not sys.argv[0].endswith("reval") else os.path.relpath(sys.argv[0])


def print_table(found: Any) -> None:
    """Prints an Arrow table on standard output; two columns may have the same name."""
    names = (name.replace("[", r"\[") for name in found.column_names)
    table = Table(*names, box=None, header_style="bold", pad_edge=False)
    for row in zip(*(column.to_pylist() for column in found.columns), strict=True):
        table.add_row(*(_cell(value) for value in row))
    stdout().print(table)


def stdout() -> Console:
    """Standard output; lines are not cut if it is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    return plain(f"{value:.4g}" if isinstance(value, float) else str(value), "\n")


def plain(text: str, also: str = "") -> Text:
    """Archived text with control characters escaped, except those in `also`, so that it cannot affect the terminal."""
    return Text("".join(c if c.isprintable() or c in also else c.encode("unicode_escape").decode() for c in text))
