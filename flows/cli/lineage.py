"""`reval lineage`: prints where a policy comes from, as a tree."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, At, command, plain, stdout

if TYPE_CHECKING:
    from pipeline.query.lineage import DrawnRollouts, PolicyRecord, RuleDraws, Step

# The most runs of a step that get a line of their own.
RUNS = 5


@command
def lineage(
    policy: Annotated[
        str, typer.Argument(help="A policy of the archive: reval sql 'SELECT policy_id FROM policies' lists them.")
    ],
    at: At = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Show where a policy comes from: its parents back to the base policy, and what each pass drew from which state.

    Passes of one run that follow each other are shown as one. The view `lineage` of `reval sql` has each of them.
    """
    from rich.tree import Tree

    from pipeline.archive.store import Store
    from pipeline.query.lineage import lineage as steps_of

    steps = steps_of(Store(archive), policy, at)
    root = tree = Tree(plain(_title(steps[0])))
    for step, parent in zip(steps, [*steps[1:], None], strict=True):
        for line in _details(step):
            tree.add(plain(line))
        if parent is not None:
            tree = tree.add(plain(f"parent {_title(parent)}"))
        elif last := step.policies[-1].parent_id:
            seen = any(policy.policy_id == last for passed in steps for policy in passed.policies)
            tree.add(plain(f"parent {last}: {'the parents go in a circle' if seen else 'not in this archive'}"))
    stdout().print(root)


def _title(step: "Step") -> str:
    """The line that describes a step."""
    newest, oldest = step.policies[0], step.policies[-1]
    if newest.pass_id is None:
        return f"{newest.policy_id}: {_base(newest)}"
    made = [policy for policy in step.policies if policy.objective is not None]
    if not made:
        return f"{newest.policy_id}: its pass is not in this archive"
    name = newest.policy_id if newest is oldest else f"{oldest.policy_id} … {newest.policy_id}"
    n_updates, n_draws = sum(p.n_updates or 0 for p in made), sum(p.n_draws or 0 for p in made)
    how = " or ".join(dict.fromkeys(f"{p.objective}, beta {p.beta}" for p in made))
    passes = [] if newest is oldest else [f"{len(made):,} passes"]
    return f"{name}: {', '.join([*passes, how, _count(n_updates, 'update'), _count(n_draws, 'draw')])}"


def _base(policy: "PolicyRecord") -> str:
    if policy.location is None:
        return "base policy, known by name only"
    return f"base policy, {policy.n_parameters or 0:,} parameters, {policy.location}"


def _details(step: "Step") -> Iterator[str]:
    """The snapshots, references, rollouts and rules of a step's passes, one line each."""
    made = [policy for policy in reversed(step.policies) if policy.snapshot_id]  # oldest first
    if made:
        yield f"from {_named(list(dict.fromkeys(map(_snapshot, made))), 'snapshot')}"
        yield _named(
            list(dict.fromkeys(policy.reference_id or "of each rollout its own policy" for policy in made)), "reference"
        )
    for rollouts in step.rollouts[:RUNS]:
        yield _rollouts(rollouts)
    if more := step.rollouts[RUNS:]:
        yield f"{sum(row.n_rollouts for row in more):,} rollouts of {_count(len(more), 'more run')}"
    if step.rules:
        yield _rules(step.rules)


def _named(names: list[str], what: str) -> str:
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names):,} {what}s, {names[0]} … {names[-1]}"


def _snapshot(policy: "PolicyRecord") -> str:
    if policy.stage is None:
        return f"{policy.snapshot_id} (not in this archive)"
    of = "" if policy.stage_run_id is None else f", {policy.stage_run_id}/{policy.stage_iteration}"
    return f"{policy.snapshot_id} ({policy.stage}{of}{f'; labelled {policy.labels}' if policy.labels else ''})"


def _rollouts(rollouts: "DrawnRollouts") -> str:
    if rollouts.run_id is None:
        return f"{_count(rollouts.n_rollouts, 'rollout')} that are not in this archive"
    first, last = rollouts.first_iteration, rollouts.last_iteration
    when = f"iteration {first}" if first == last else f"iterations {first} to {last}"
    policies = _count(rollouts.n_policies, "policy", "policies")
    return f"{_count(rollouts.n_rollouts, 'rollout')} of {rollouts.run_id}, {when}, by {policies}"


def _rules(rules: "tuple[RuleDraws, ...]") -> str:
    by_source, by_rule = dict[str, int](), dict[str, int]()
    for row in rules:
        by_source[row.source] = by_source.get(row.source, 0) + row.n_draws
        by_rule[row.rule] = by_rule.get(row.rule, 0) + row.n_draws
    sources = f"{by_source.get('fresh', 0):,} fresh, {by_source.get('replay', 0):,} replayed"
    return f"{sources}; by rule: {', '.join(f'{name} {n:,}' for name, n in by_rule.items())}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
