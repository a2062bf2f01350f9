"""Brings the questions of a file into the table prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.exchange import formats
from pipeline.exchange.formats import BadRow, Columns, Reject, Row, names, published, values
from pipeline.exchange.formats.files import beginning
from pipeline.exchange.formats.rows import ALIASES
from pipeline.exchange.imports import Built, ImportResult, ask, bring, check_map, source_name
from pipeline.inputs.prompts import prompt_row
from schemas import digest
from schemas.enums import Imported, Split

SPLITS = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("test", "valid", "validation", "val", "dev", "eval", "heldout"), Split.HELDOUT),
}


def import_prompts(
    archive: str | Path,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    source: str | None = None,
    split: Split | None = None,
    strict: bool = False,
) -> ImportResult:
    """Adds the questions of a file or folder. If there is no archive, one is made.

    Args:
        columns: from our column to the file's: {"problem": "question"}; usual names need no entry.
        source: the questions' name in the archive; None: the name of the file or folder.
        split: of all rows; None: each row's `split`, or else the split that its file's name says.
        strict: a bad row stops the import before anything is committed.

    Raises:
        UserError: no row can be imported, or one row cannot and `strict` is set.
    """
    sources = formats.find(path)
    source = source_name(source, path)
    known = check_map(columns or {}, ("problem", "gold_answer", "split"))
    how = {"map": known.mapped, "source": source, "split": split}
    format_ = "+".join(sorted({formats.suffix(each.path)[1:] for each in sources}))
    return bring(
        *(archive, path, sources, Imported.PROMPTS, format_, how),
        importer=lambda: Questions(known, source, split),
        strict=strict,
    )


@dataclass(frozen=True)
class Question:
    file: str
    line: int
    row: str
    problem: str
    gold_answer: str
    split: Split

    @property
    def weight(self) -> int:
        return len(self.problem) + len(self.gold_answer) + 500


class Questions:
    """Makes prompts of rows."""

    def __init__(self, columns: Columns, source: str, split: Split | None) -> None:
        self._columns, self._source, self._split = columns, source, split
        self._seen: dict[int, Split] = {}

    def parse(self, row: Row) -> list[Question]:
        said = row.values if self._columns.mapped else published.plain(row.values)
        problem, _ = values.problem(self._columns.find(said, "problem", ALIASES["problem"]))
        gold_answer = values.gold(self._columns.find(said, "gold_answer", ALIASES["gold_answer"]))
        if gold_answer is None:
            raise BadRow(
                "no gold answer (answer, ground_truth, solution …); name its column with --map gold_answer=COLUMN"
            )
        split = self._split or self._said(row)
        if self._seen.setdefault(int(digest(problem)[:15], 16), split) != split:
            raise BadRow(f"the same problem is in this file's other split: it cannot be both {split} and not")
        return [Question(row.file, row.line, beginning(row.values), problem, gold_answer, split)]

    def _said(self, row: Row) -> Split:
        said = self._columns.find(row.values, "split", ("split",))
        if said is None:
            return names.split(row.file)
        if (split := SPLITS.get(str(said).lower())) is None:
            raise BadRow(f"split is {values.shown(said)}, none of {', '.join(SPLITS)}; --split says it for all rows")
        return split

    def build(self, store: Store | None, import_id: str, items: Sequence[Question]) -> Built:
        known, splits, bad = set(), {}, []
        for found in ask(store, "known_problems", problem=[item.problem for item in items]):
            known.add(found["prompt_id"])
            if found["source"] == self._source:
                splits[found["problem"]] = found["split"]
        rows: dict[str, dict[str, Any]] = {}
        for item in items:
            if splits.get(item.problem, item.split) != item.split:
                reason = f"the problem is in the {splits[item.problem]} split of source {self._source} already"
                bad.append(Reject(item.file, item.line, reason, item.row))
                continue
            row = prompt_row(self._source, item.split, item.problem, item.gold_answer, import_id, item.line)
            if row["prompt_id"] not in known:
                rows.setdefault(row["prompt_id"], row)
        return Built({"prompts": pa.Table.from_pylist(list(rows.values()))}, bad, len(items) - len(bad))
