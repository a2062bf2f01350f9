"""Brings the rollouts of a file into trajectories, responses and verdicts, with their prompts and policies.

A rollout belongs to the prompt of the archive with the same problem, word for word. If there are several such prompts,
the one with the same gold answer is taken, else one of the import's own source. If there is none, a new prompt is made. A
row without a gold answer takes that of the prompt; if there is no such prompt and the row has a label, the new prompt's
gold answer is empty, which the math verifier calls bad_gold; without a label the row is bad.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.exchange import formats
from pipeline.exchange.formats import Columns, Reject, Rollout, Row, SourceFile, names
from pipeline.exchange.formats.files import beginning
from pipeline.exchange.formats.rows import ALIASES
from pipeline.exchange.formats.values import Array, BadRow
from pipeline.exchange.imports import Built, ImportResult, ask, bring, check_map, source_name
from pipeline.exchange.tokenise import Tokenizer
from pipeline.inputs.prompts import prompt_row
from pipeline.verifiers import IMPORTED
from schemas import TABLES, as_name, digest
from schemas.enums import Imported, Split, Verdict

ENGINE = "imported"


def import_rollouts(
    archive: str | Path,
    path: Path,
    *,
    format_: str | None = None,
    columns: Mapping[str, str] | None = None,
    source: str | None = None,
    split: Split = Split.TRAIN,
    policy: str | None = None,
    tokenizer: str | None = None,
    strict: bool = False,
) -> ImportResult:
    """Adds the rollouts of a file or folder. If there is no archive, one is made.

    Args:
        format_: one of formats.ROLLOUTS; None: found out from the first row.
        columns: from our column to the file's: {"response": "answer_text"}; usual names need no entry.
        source, split: of the prompts that the archive does not have.
        policy: the policy that made all rollouts; None: the one in the file, or the run and step if the format has them.
        tokenizer: a folder or hub name; the tokenizer of the file's token ids, or the one to make them with.
        strict: a bad row stops the import before anything is committed.

    Raises:
        UserError: no row can be imported, or one row cannot and `strict` is set; or the tokenizer cannot be loaded.
    """
    sources = formats.find(path)
    source = source_name(source, path)
    mapped = check_map(columns or {}, tuple(ALIASES))
    policy = None if policy is None else as_name(policy)
    format_ = format_ or _detect(sources)
    made = None if tokenizer is None else Tokenizer(tokenizer)
    how = {
        **{"map": mapped.mapped, "source": source, "split": split, "policy": policy},
        "tokenizer": made and {"name": made.name, "digest": made.digest},
    }
    places = {each.name: each for each in sources}
    return bring(
        *(archive, path, sources, Imported.ROLLOUTS, format_, how),
        importer=lambda: RolloutImporter(format_, mapped, source, split, policy, made, places),
        strict=strict,
    )


def _detect(sources: Sequence[SourceFile]) -> str:
    """The format of the files' first good row; `rows` if no row is good, so that nothing is read."""
    for source in sources:
        for row in formats.read(source):
            if isinstance(row, Row):
                return formats.detect(row)
    return "rows"


@dataclass(frozen=True)
class Made:
    """A rollout with its policy and iteration, and its number among equal rollouts of the files."""

    file: str
    line: int
    row: str
    said: Rollout
    policy_id: str
    iteration: int
    identity: str  # of its response: a digest of the token ids, or the text if the file has no ids
    occurrence: int

    @property
    def place(self) -> tuple[str, int]:
        return self.file, self.line

    @property
    def weight(self) -> int:
        lists = (self.said.prompt_token_ids, self.said.response_token_ids, self.said.logprobs)
        return len(self.said.problem) + len(self.said.text or "") + 1000 + sum(4 * len(x) for x in lists if x is not None)


class RolloutImporter:
    """Makes rollouts of rows, and table rows of rollouts."""

    def __init__(
        self,
        format_: str,
        columns: Columns,
        source: str,
        split: Split,
        policy: str | None,
        tokenizer: Tokenizer | None,
        places: Mapping[str, SourceFile],
    ) -> None:
        self._format, self._read = format_, formats.ROLLOUTS[format_].rollouts
        self._columns, self._source, self._split = columns, source, split
        self._policy, self._tokenizer, self._places = policy, tokenizer, places
        self._runs: dict[str, str] = {}
        # How often each rollout occurred, by 60 bits of a digest; about 100 bytes for every rollout of the files.
        self._equal: Counter[int] = Counter()

    def parse(self, row: Row) -> list[Made]:
        shown, found = beginning(row.values), []
        for said in list(self._read(row.values, self._columns, row.file)):
            policy_id, step = self._maker(row, said)
            identity = _identity(said)
            key = int(digest("equal", policy_id, said.problem, step, identity)[:15], 16)
            found.append(Made(row.file, row.line, shown, said, policy_id, step or 0, identity, self._equal[key]))
            self._equal[key] += 1
        return found

    def _maker(self, row: Row, said: Rollout) -> tuple[str, int | None]:
        """The policy that made it, and the step of its run."""
        if not formats.named_by_run(self._format):
            if (policy := self._policy or said.policy) is None:
                raise BadRow("no policy (policy, model, policy_id, model_name): name the one that made it with --policy")
            return as_name(policy), said.step
        path = self._places[row.file].path
        step = names.step(path) if said.step is None else said.step
        if self._policy:
            return self._policy, step
        if row.file not in self._runs:
            self._runs[row.file] = names.origin(path.resolve())
        run = said.policy or self._runs[row.file]
        return as_name(run if step is None else f"{run}-step-{step}"), step

    def build(self, store: Store | None, import_id: str, items: Sequence[Made]) -> Built:
        bad: dict[tuple[str, int], Reject] = {}

        def refuse(item: Made, reason: str) -> None:
            bad.setdefault(item.place, Reject(item.file, item.line, reason, item.row))

        whole, made_here = self._whole(items, refuse)
        prompts = _Prompts(store, import_id, self._source, self._split, [item.said.problem for item in whole])
        prompt_ids = [prompts.of(item) for item in whole]
        for item, prompt_id in zip(whole, prompt_ids, strict=True):
            if prompt_id is None:
                refuse(item, "no gold answer and no label, and no prompt of the archive has this problem")
        # If one rollout of a row is bad, no rollout of that row is taken.
        good = [
            _Answer(item, here, prompt_id)
            for item, here, prompt_id in zip(whole, made_here, prompt_ids, strict=True)
            if prompt_id is not None and item.place not in bad
        ]
        tables = _tables(store, import_id, self._tokenizer, good, prompts)
        return Built(tables, list(bad.values()), len(good))

    def _whole(self, items: Sequence[Made], refuse: Callable[[Made, str], None]) -> tuple[list[Made], list[bool]]:
        """The items with text and, if there is a tokenizer, token ids; and for each, whether token ids were made here."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            for item in items:
                if item.said.text is None:
                    refuse(item, "token ids without text: name their tokenizer with --tokenizer to have them decoded")
            items = [item for item in items if item.said.text is not None]
            return items, [False] * len(items)
        chosen = []
        for item in items:
            lists = (item.said.prompt_token_ids, item.said.response_token_ids)
            largest = max((int(ids.max()) for ids in lists if ids is not None and len(ids)), default=0)
            if largest >= tokenizer.size:
                refuse(item, f"token id {largest} is none of tokenizer {tokenizer.name}, which has {tokenizer.size}")
            else:
                chosen.append(item)
        said = [item.said for item in chosen]
        decoded = iter(tokenizer.decode([_there(s.response_token_ids) for s in said if s.text is None]))
        answers = iter(tokenizer.encode([s.text or "" for s in said if s.response_token_ids is None]))
        asked = [tokenizer.prompt(s.problem, s.chat) if s.prompt_token_ids is None else None for s in said]
        unique = list(dict.fromkeys(text for text in asked if text is not None))
        encoded: dict[str | None, Array] = dict(zip(unique, tokenizer.encode(unique), strict=True))
        whole, made_here = [], []
        for item, s, question in zip(chosen, said, asked, strict=True):
            full = replace(
                s,
                text=next(decoded) if s.text is None else s.text,
                prompt_token_ids=encoded[question] if s.prompt_token_ids is None else s.prompt_token_ids,
                response_token_ids=next(answers) if s.response_token_ids is None else s.response_token_ids,
            )
            n_tokens = len(_there(full.response_token_ids))
            if s.logprobs is not None and len(s.logprobs) != n_tokens:
                refuse(
                    item,
                    f"{len(s.logprobs)} log-probs, but tokenizer {tokenizer.name} makes {n_tokens} tokens of the text",
                )
                continue
            whole.append(replace(item, said=full))
            made_here.append(s.prompt_token_ids is None or s.response_token_ids is None)
        return whole, made_here


def _there(ids: Array | None) -> Array:
    assert ids is not None
    return ids


def _identity(said: Rollout) -> str:
    if said.response_token_ids is None:
        return f"text:{said.text}"
    return f"ids:{hashlib.blake2b(said.response_token_ids.astype('<i4').tobytes(), digest_size=16).hexdigest()}"


@dataclass(frozen=True)
class _Answer:
    item: Made
    made_here: bool  # the tokenizer made token ids of its text
    prompt_id: str


class _Prompts:
    """The prompts of a shard's problems: those of the archive, and those it lacks."""

    def __init__(self, store: Store | None, import_id: str, source: str, split: Split, problems: list[str]) -> None:
        self._import_id, self._source, self._split = import_id, source, split
        self.known: set[str] = set()
        self.new: dict[str, dict[str, Any]] = {}
        self._there: dict[str, list[dict[str, Any]]] = {}
        self._splits: dict[str, str] = {}
        for found in ask(store, "known_problems", problem=problems):
            self.known.add(found["prompt_id"])
            if found["source"] == source:
                self._splits[found["problem"]] = found["split"]
            # Prompts of this same import do not count, so that it makes no difference how often the import was begun.
            if found["import_id"] != import_id:
                self._there.setdefault(found["problem"], []).append(found)

    def of(self, item: Made) -> str | None:
        """The id of the prompt that an item belongs to; None: there is no gold answer and no label. See the module."""
        problem, gold_answer = item.said.problem, item.said.gold_answer
        usable = [p for p in self._there.get(problem, ()) if p["gold_answer"] or gold_answer is None]
        if usable:
            ranked = [(p["gold_answer"] != gold_answer, p["source"] != self._source, p["prompt_id"]) for p in usable]
            return str(min(ranked)[-1])
        if gold_answer is None and item.said.correct is None:
            return None
        # A source has a problem in one split only.
        split = self._splits.get(problem, self._split)
        row = prompt_row(self._source, split, problem, gold_answer or "", self._import_id, item.line)
        if row["prompt_id"] not in self.known:
            self.new.setdefault(row["prompt_id"], row)
        return str(row["prompt_id"])


def _tables(
    store: Store | None, import_id: str, tokenizer: Tokenizer | None, good: Sequence[_Answer], prompts: _Prompts
) -> dict[str, pa.Table]:
    """The rows that the archive lacks, by table, in the order of commits."""
    tokenizer_digest = tokenizer.digest if tokenizer else None
    named = {}
    for answer in good:
        item = answer.item
        how = (item.policy_id, answer.prompt_id, tokenizer_digest, item.iteration, item.identity, item.occurrence)
        named[digest("imported", *how)] = answer
    found = ask(store, "known_trajectories", trajectory_id=list(named), verifier_id=IMPORTED)
    judged = {row["trajectory_id"] for row in found if row["judged"]}
    known = {row["trajectory_id"] for row in found}
    new = {trajectory_id: answer for trajectory_id, answer in named.items() if trajectory_id not in known}
    used = {answer.prompt_id for answer in new.values()}
    policy_ids = {answer.item.policy_id for answer in new.values()} - {
        row["policy_id"] for row in ask(store, "known_policies")
    }
    labelled = [(i, answer.item) for i, answer in named.items() if i not in judged]
    rows = {
        "policies": [_policy(policy_id) for policy_id in sorted(policy_ids)],
        "prompts": [row for prompt_id, row in prompts.new.items() if prompt_id in used],
        "responses": [_response(i, answer.item.said) for i, answer in new.items()],
        "verdicts": [_verdict(i, item) for i, item in labelled if item.said.correct is not None],
        "trajectories": _trajectories(store, import_id, tokenizer, new),
    }
    return {name: pa.Table.from_pylist(each, _nullable(name)) for name, each in rows.items()}


def _nullable(name: str) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in TABLES[name].schema])


def _trajectories(
    store: Store | None, import_id: str, tokenizer: Tokenizer | None, new: Mapping[str, _Answer]
) -> list[dict[str, Any]]:
    def group_id(answer: _Answer) -> str:
        return digest("imported group", answer.item.policy_id, answer.prompt_id, answer.item.iteration, import_id)

    groups = {trajectory_id: group_id(answer) for trajectory_id, answer in new.items()}
    known = ask(store, "group_sizes", group_id=list(set(groups.values())))
    sizes = Counter({row["group_id"]: row["n_rollouts"] for row in known})
    rows = []
    for trajectory_id, answer in new.items():
        item, said, group = answer.item, answer.item.said, groups[trajectory_id]
        rows.append(
            {
                "trajectory_id": trajectory_id,
                "group_id": group,
                "prompt_id": answer.prompt_id,
                "policy_id": item.policy_id,
                "run_id": import_id,
                "iteration": item.iteration,
                "sample_index": sizes[group],
                "temperature": said.temperature,
                "max_response_tokens": said.max_response_tokens,
                "seed": said.seed,
                "engine": ENGINE,
                "engine_version": said.engine_version,
                "finish_reason": said.finish_reason,
                "n_prompt_tokens": None if said.prompt_token_ids is None else len(said.prompt_token_ids),
                "n_response_tokens": None if said.response_token_ids is None else len(said.response_token_ids),
                "behaviour_logprob_sum": None if said.logprobs is None else float(said.logprobs.sum(dtype=np.float64)),
                "import_id": import_id,
                "line": item.line,
                "tokenised_by": tokenizer.name if tokenizer and answer.made_here else None,
                "tokenizer_digest": tokenizer.digest if tokenizer else None,
            }
        )
        sizes[group] += 1
    return rows


def _response(trajectory_id: str, said: Rollout) -> dict[str, Any]:
    return {
        "trajectory_id": trajectory_id,
        "response_text": said.text,
        "prompt_token_ids": said.prompt_token_ids,
        "response_token_ids": said.response_token_ids,
        "behaviour_logprobs": said.logprobs,
    }


def _verdict(trajectory_id: str, item: Made) -> dict[str, Any]:
    return {
        "trajectory_id": trajectory_id,
        "verifier_id": IMPORTED,
        "verdict": Verdict.CORRECT if item.said.correct else Verdict.WRONG,
        "reward": item.said.reward,
        "extracted_answer": None,
        "seconds": None,
        "iteration": item.iteration,
    }


def _policy(policy_id: str) -> dict[str, Any]:
    """The row of a policy of which only the name is known."""
    return {"policy_id": policy_id} | {column.name: None for column in TABLES["policies"].columns[1:]}
