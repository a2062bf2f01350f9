"""`reval import`: questions and rollouts of other people's files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.app import DEFAULT_ARCHIVE, Archive, app, guarded, myself
from schemas.enums import Split

if TYPE_CHECKING:
    from pipeline.imports import Outcome

import_app = typer.Typer(
    help="Bring questions and archived rollouts of other people's files into the archive.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(import_app, name="import")


class RolloutFormat(StrEnum):
    ROWS = "rows"
    TRL = "trl"
    VERL = "verl"
    PRIME_RL = "prime-rl"
    GSM8K = "gsm8k"


File = Annotated[
    Path,
    typer.Argument(help="JSONL, JSON, CSV or Parquet, also .gz; a folder of these; or a Hugging Face datasets folder."),
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", "-m", help="Columns that have another name here: problem=question,gold_answer=answer."),
]
Origin = Annotated[
    str | None, typer.Option("--source", help="The questions' name in the archive. Default: the file's or its folder's.")
]
Strict = Annotated[bool, typer.Option("--strict", help="A bad row stops the import before anything is committed.")]


@import_app.command("prompts")
@guarded
def import_prompts(
    file: File,
    map_: Map = None,
    source: Origin = None,
    split: Annotated[
        Split | None, typer.Option(help="Of all rows. Default: the rows' `split`, or what the file's name says.")
    ] = None,
    strict: Strict = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Add questions with their gold answers. GSM8K's `#### 18` and `\\boxed{18}` are understood.

    Train on them: `reval iterate --set prompts.source=NAME` with a policy of yours.
    """
    from pipeline.import_prompts import import_prompts as run
    from pipeline.imports import parse_map

    outcome = run(
        *(archive, file),
        columns=parse_map(map_ or []),
        source=source,
        split=split,
        strict=strict,
    )
    n_train, n = outcome.counts["n_train"], outcome.counts["n_prompts"]
    parts = [f"{count:,} {name}" for name, count in (("train", n_train), ("heldout", n - n_train)) if count]
    splits = parts[0].split()[1] if len(parts) == 1 else ", ".join(parts)
    _report(outcome, archive, f"prompts of source {outcome.source}" + (f" ({splits})" if splits else ""))


@import_app.command("rollouts")
@guarded
def import_rollouts(
    file: File,
    format_: Annotated[
        RolloutFormat | None, typer.Option("--format", "-f", help="Default: what the first row looks like.")
    ] = None,
    map_: Map = None,
    source: Origin = None,
    split: Annotated[Split, typer.Option(help="Of questions that are not in the archive yet.")] = Split.TRAIN,
    policy: Annotated[
        str | None, typer.Option(help="Who made them. Default: what the rows say, or the run and its step.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder or hub name: of the file's token ids, or to make them of its text.")
    ] = None,
    strict: Strict = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Add rollouts that were made elsewhere: text or token ids, with or without log-probs and labels.

    Labels become verdicts of the verifier `imported`; `reval retrain --set score.verifier=imported` trains on them.
    """
    from pipeline.import_rollouts import import_rollouts as run
    from pipeline.imports import parse_map

    outcome = run(
        *(archive, file),
        format_=format_ and format_.value,
        columns=parse_map(map_ or []),
        source=source,
        split=split,
        policy=policy,
        tokenizer=tokenizer,
        strict=strict,
    )
    counts = outcome.counts
    n_policies, n_prompts = counts["n_policies"], counts["n_prompts"]
    of = f" of {n_policies:,} {'policy' if n_policies == 1 else 'policies'}" if n_policies else ""
    answered = f", with {n_prompts:,} new prompts of source {outcome.source}" if n_prompts else ""
    _report(outcome, archive, f"rollouts{of}", answered)
    if outcome.already:
        return
    if counts["n_text_only"]:
        typer.echo(
            f"{counts['n_text_only']:,} of them are text without token ids: they can be queried and judged, but not "
            "trained on; --tokenizer NAME makes token ids of text"
        )
    elif counts["n_no_tokenizer"]:
        typer.echo("their tokenizer is not known, so no policy is trained on them; --tokenizer NAME says which it is")


def _report(outcome: "Outcome", archive: str, what: str, more: str = "") -> None:
    """What came of it; then the first bad rows, and how to see them all."""
    from pipeline.imports import place

    if outcome.already:
        n_rows = outcome.n_added + outcome.n_known
        typer.echo(f"import {outcome.import_id} is in the archive already: {n_rows:,} rows")
        return
    typer.echo(
        f"import {outcome.import_id}: {outcome.n_added:,} {what} added{more}, {outcome.n_known:,} known, "
        f"{outcome.n_rejected:,} rejected"
    )
    for file, line, reason in outcome.rejects:
        typer.echo(f"{place(file, line)}: {''.join(c if c.isprintable() else '�' for c in reason)}", err=True)
    if outcome.n_rejected:
        where = "" if archive == DEFAULT_ARCHIVE else f" --archive {archive}"
        statement = f"SELECT file, line, reason, row FROM rejects WHERE import_id = '{outcome.import_id}'"
        typer.echo(f'all of them: {myself()} sql{where} "{statement}"', err=True)
