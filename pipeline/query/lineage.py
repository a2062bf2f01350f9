"""Where a policy comes from: its passes, what each drew from, and its parents, back to a base policy.

It follows parents only: the policies whose rollouts were drawn have a lineage of their own.
"""

import difflib
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from pipeline.archive.entries import holding
from pipeline.archive.store import Store, Versions
from pipeline.query import db
from pipeline.query import states as versions
from schemas import UserError

# The number of nearest policies that are each a step of their own, even if they are of one run.
NEAREST = 2
STEPS = pa.schema({"pass_id": pa.string(), "step": pa.int64()})


@dataclass(frozen=True)
class PolicyRecord:
    """A policy, the pass that made it and the snapshot this drew from: a row of pipeline/query/sql/lineage_of.sql."""

    policy_id: str
    parent_id: str | None
    run_id: str | None
    iteration: int | None
    pass_id: str | None  # None: a base policy
    n_parameters: int | None
    location: str | None
    objective: str | None  # None: its pass is not in the archive
    beta: float | None
    n_updates: int | None
    n_draws: int | None
    reference_id: str | None
    snapshot_id: str | None
    stage: str | None  # None: the snapshot is not in the archive
    stage_run_id: str | None
    stage_iteration: int | None
    labels: str | None


@dataclass(frozen=True)
class DrawnRollouts:
    """Rollouts of one run that were drawn, each counted once; run_id None: they are not in the archive."""

    run_id: str | None
    n_rollouts: int
    n_policies: int
    first_iteration: int | None
    last_iteration: int | None


@dataclass(frozen=True)
class RuleDraws:
    """Draws of one source by one rule."""

    source: str
    rule: str
    n_draws: int


@dataclass(frozen=True)
class Step:
    """A policy with what its pass drew, or several policies of one run in a row, nearest first, taken together."""

    policies: tuple[PolicyRecord, ...]
    rollouts: tuple[DrawnRollouts, ...]
    rules: tuple[RuleDraws, ...]


def lineage(store: Store, policy_id: str, at: str | None = None) -> list[Step]:
    """The steps from a policy back to its last known ancestor, nearest first, at a state of the archive (None: now).

    Passes of one run in a row are one step, except the run's newest pass in the line and the two nearest policies.

    Raises:
        UserError: the state has no such policy, or see `versions.resolve`.
    """
    state = versions.resolve(store, at).versions
    found = db.rows(db.connect(store, state, only=db.sql("lineage_of")), "lineage_of", policy_id=policy_id)
    if not len(found):
        raise UserError(_unknown(store, state, policy_id, at))
    groups = _grouped([PolicyRecord(**row) for row in found.to_pylist()])
    rollouts, rules = _drawn(store, state, groups)
    return [Step(*of) for of in zip(groups, rollouts, rules, strict=True)]


def _grouped(line: list[PolicyRecord]) -> list[tuple[PolicyRecord, ...]]:
    """The policies of each step, nearest first."""

    def group(place: int) -> tuple[str | None, int]:
        policy, younger = line[place], line[max(0, place - 1)]
        alone = place < NEAREST or policy.pass_id is None or policy.run_id != younger.run_id
        return policy.run_id, place if alone else -1

    return [tuple(line[place] for place in places) for _, places in groupby(range(len(line)), key=group)]


def _drawn(
    store: Store, state: Versions, groups: list[tuple[PolicyRecord, ...]]
) -> tuple[list[tuple[DrawnRollouts, ...]], list[tuple[RuleDraws, ...]]]:
    """The draws of each step's passes: rollouts by run, and draws by rule."""
    names = [(policy.pass_id, step) for step, group in enumerate(groups) for policy in group if policy.pass_id]
    passes = pa.table({"pass_id": [name for name, _ in names], "step": [step for _, step in names]}, STEPS)
    only = db.sql("lineage_rollouts") + db.sql("lineage_rules")
    connection = db.connect(store, state, only=only, filters={"draws": holding(name for name, _ in names)})
    connection.register("numbered", passes)
    rollouts: list[list[DrawnRollouts]] = [[] for _ in groups]
    for row in db.rows(connection, "lineage_rollouts").to_pylist():
        rollouts[row.pop("step")].append(DrawnRollouts(**row))
    rules: list[list[RuleDraws]] = [[] for _ in groups]
    for row in db.rows(connection, "lineage_rules").to_pylist():
        rules[row.pop("step")].append(RuleDraws(**row))
    return [tuple(of) for of in rollouts], [tuple(of) for of in rules]


def _unknown(store: Store, state: Versions, policy_id: str, at: str | None) -> str:
    known = db.rows(db.connect(store, state, only=db.sql("known_policies")), "known_policies")
    near = " or ".join(map(repr, difflib.get_close_matches(policy_id, known["policy_id"].to_pylist(), n=3)))
    hint = f"did you mean {near}?" if near else '`reval sql "SELECT policy_id FROM policies"` lists those that are'
    return f"policy {policy_id!r} is not in {store.layout.root}{f' at {at}' if at else ''}; {hint}"
