"""`reval import` and `reval export`: files that were made elsewhere, and exports of an archive."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from flows.cli.app import DEFAULT_ARCHIVE, PANEL_OF, Archive, At, app, command, guarded, myself
from schemas.enums import Split

if TYPE_CHECKING:
    from pipeline.exchange.imports import ImportResult


class _Import(typer.core.TyperGroup):
    """`reval import DIR` is `reval import archive DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["archive", *args]
        return super().parse_args(ctx, args)


import_app = typer.Typer(
    cls=_Import,
    help="Bring questions, rollouts that were made elsewhere, or an export of `reval export` into the archive.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(import_app, name="import", rich_help_panel=PANEL_OF["import"])


class RolloutFormat(StrEnum):
    ROWS = "rows"
    TRL = "trl"
    VERL = "verl"
    PRIME_RL = "prime-rl"
    GSM8K = "gsm8k"


File = Annotated[
    Path,
    typer.Argument(
        help="A JSONL, JSON, CSV or Parquet file, also .gz; a folder of these; or a Hugging Face datasets folder."
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        "-m",
        help="Columns with other names in the file: problem=question,gold_answer=answer. Can be given again.",
    ),
]
Origin = Annotated[
    str | None,
    typer.Option(
        "--source", help="The source name of the questions in the archive. Default: the name of the file or its folder."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row, before anything is committed.")]


@import_app.command("prompts")
@guarded
def import_prompts(
    file: Annotated[
        Path,
        typer.Argument(
            help="A JSONL, JSON, CSV or Parquet file, also .gz; a folder of these; a Hugging Face datasets folder; or, "
            "from the hub, OWNER/NAME, OWNER/NAME:FILE, or one of aime24, aime25, amc, math, minerva, olympiad and gpqa."
        ),
    ],
    map_: Map = None,
    source: Origin = None,
    split: Annotated[
        Split | None,
        typer.Option(help="The split of all rows. Default: each row's `split`, or what the file's name says."),
    ] = None,
    strict: Strict = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Add questions with their gold answers. Answers like GSM8K's `#### 18` and `\\boxed{18}` are understood.

    To train on them: `reval iterate --set prompts.source=NAME`, with your own policy. To evaluate: `reval evaluate`.
    """
    from pipeline.exchange.evaluation_sets import on_hub
    from pipeline.exchange.import_prompts import import_prompts as run
    from pipeline.exchange.imports import parse_map

    if not file.exists() and (found := on_hub(str(file))):
        file, source = found.path, source or found.source
    result = run(
        *(archive, file),
        columns=parse_map(map_ or []),
        source=source,
        split=split,
        strict=strict,
    )
    n_train, n = result.counts["n_train"], result.counts["n_prompts"]
    parts = [f"{count:,} {name}" for name, count in (("train", n_train), ("heldout", n - n_train)) if count]
    splits = parts[0].split()[1] if len(parts) == 1 else ", ".join(parts)
    _report(result, archive, f"prompts of source {result.source}" + (f" ({splits})" if splits else ""))


@import_app.command("rollouts")
@guarded
def import_rollouts(
    file: File,
    format_: Annotated[
        RolloutFormat | None, typer.Option("--format", "-f", help="The file's format. Default: found from the first row.")
    ] = None,
    map_: Map = None,
    source: Origin = None,
    split: Annotated[Split, typer.Option(help="The split of questions that are not in the archive yet.")] = Split.TRAIN,
    policy: Annotated[
        str | None, typer.Option(help="The policy that made them. Default: what the rows say, or the run and its step.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="A tokenizer's folder or hub name: that of the file's token ids, or one that makes them from its text."
        ),
    ] = None,
    strict: Strict = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Add rollouts that were made elsewhere: text or token ids, with or without log-probs and labels.

    Labels become verdicts of the verifier `imported`. `reval retrain --set score.verifier=imported` trains on them.
    """
    from pipeline.exchange.import_rollouts import import_rollouts as run
    from pipeline.exchange.imports import parse_map

    result = run(
        *(archive, file),
        format_=format_ and format_.value,
        columns=parse_map(map_ or []),
        source=source,
        split=split,
        policy=policy,
        tokenizer=tokenizer,
        strict=strict,
    )
    counts = result.counts
    n_policies, n_prompts = counts["n_policies"], counts["n_prompts"]
    of = f" of {n_policies:,} {'policy' if n_policies == 1 else 'policies'}" if n_policies else ""
    answered = f", with {n_prompts:,} new prompts of source {result.source}" if n_prompts else ""
    _report(result, archive, f"rollouts{of}", answered)
    if result.already:
        return
    if counts["n_text_only"]:
        typer.echo(
            f"{counts['n_text_only']:,} of them are text without token ids: they can be queried and judged, but not "
            "trained on; --tokenizer NAME makes token ids of text"
        )
    elif counts["n_no_tokenizer"]:
        typer.echo("their tokenizer is not known, so no policy is trained on them; --tokenizer NAME says which it is")


@import_app.command("archive")
@guarded
def import_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `reval export` wrote.")],
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Add all rows of an export that are not in the archive yet. The word `archive` can be left out."""
    from pipeline.exchange.import_archive import import_archive, is_export, read_manifest
    from schemas import UserError

    if not is_export(folder):
        raise UserError(
            f"{folder} is not an export (no manifest.json in it); for other files: "
            "`reval import prompts FILE` or `reval import rollouts FILE`"
        )
    manifest = read_manifest(folder)
    if manifest.query is not None:
        import pyarrow.parquet as pq

        from pipeline.exchange.export import ROWS
        from pipeline.exchange.formats.rows import ALIASES

        answers = {*ALIASES["response"], *ALIASES["response_token_ids"]}
        read = import_rollouts if answers & set(pq.read_schema(folder / ROWS).names) else import_prompts
        read(folder / ROWS, archive=archive)
        return
    found = import_archive(archive, folder, manifest)
    typer.echo(f"{folder}: {found.n_added:,} rows added, {found.n_known:,} known")


@command
def export(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write. It must not exist yet.")],
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="Write only the rows of this SELECT. Default: every table.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Write the weights of the policies too.")] = False,
    at: At = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Write a state of the archive as plain Parquet files with a manifest. `reval import DIR` brings every row back."""
    from pipeline.archive.store import Store
    from pipeline.exchange.export import export_query, export_state

    store = Store(archive)
    made = export_query(store, at, query, out) if query else export_state(store, at, out, weights=weights)
    typer.echo(f"{out}: {sum(file.n_rows for file in made.files):,} rows in {len(made.files)} files")


def _report(result: "ImportResult", archive: str, what: str, more: str = "") -> None:
    """Prints the result of an import, the first bad rows, and a query for all of them."""
    from pipeline.exchange.imports import place

    if result.already:
        n_rows = result.n_added + result.n_known
        typer.echo(f"import {result.import_id} is in the archive already: {n_rows:,} rows")
        return
    typer.echo(
        f"import {result.import_id}: {result.n_added:,} {what} added{more}, {result.n_known:,} known, "
        f"{result.n_rejected:,} rejected"
    )
    for file, line, reason in result.rejects:
        typer.echo(f"{place(file, line)}: {''.join(c if c.isprintable() else '�' for c in reason)}", err=True)
    if result.n_rejected:
        where = "" if archive == DEFAULT_ARCHIVE else f" --archive {archive}"
        statement = f"SELECT file, line, reason, row FROM rejects WHERE import_id = '{result.import_id}'"
        typer.echo(f'all of them: {myself()} sql{where} "{statement}"', err=True)
