"""Which weights of a run stay while it goes on: the newest optimizer states, and the policy of every n-th iteration.

Weights are noted as pruned in the archive before their first file is deleted, and count as pruned from then on. So a
pruning that was interrupted is finished the next time, and `reval check` can tell pruned weights from lost ones. Three
kinds of weights stay although the rule would delete them: those the run needs to continue, those a run began from, and
the newest of the run's policies in a labelled snapshot. Folders that the archive did not make are never touched.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pipeline.archive import layout
from pipeline.archive.store import Store
from pipeline.archive.weights import PRUNING, pruned, sizes
from pipeline.progress import listed, log
from pipeline.query import db
from pipeline.recipes.config import Keep, recorded
from pipeline.runs.processes import Processes
from pipeline.runs.run import Run
from schemas import UserError

# The policy a run continues from, and the one before it: so the last pass can always be repeated.
NEWEST = 2


@dataclass(frozen=True)
class Pruning:
    """What is pruned of a run: policies whose weights are deleted, and policies whose optimizer states are deleted.

    Both have the bytes of each. `stays` has policies whose weights the rule would delete but that are still needed, each
    with the reason. `turn` is the newest policy that the rule applies to; None: there is none. `passes` can be repeated
    now, but not after the pruning.
    """

    run: Run
    weights: dict[str, int]
    states: dict[str, int]
    stays: dict[str, str]
    turn: str | None
    passes: list[str]

    @property
    def n_bytes(self) -> int:
        return sum((*self.weights.values(), *self.states.values()))

    def lines(self) -> Iterator[str]:
        """Lines that say what is deleted, what stays, and which passes can then not be repeated."""
        if self.weights or self.states:
            yield f"run {self.run.run_id}: {self.going()}"
        yield from map(self.staying, self.stays)
        if self.passes:
            yield f"{len(self.passes):,} passes can then not be repeated: {listed(self.passes)}"

    def going(self) -> str:
        parts = (("weights", self.weights, _policies_rule), ("optimizer states", self.states, _states_rule))
        said = (f"{what} of {listed(list(names))} ({rule(self.run.config.keep)})" for what, names, rule in parts if names)
        return f"{', '.join(said)}; {self.n_bytes / 1e6:,.1f} MB"

    def staying(self, policy_id: str) -> str:
        return f"{policy_id} stays, against {_policies_rule(self.run.config.keep)}: {self.stays[policy_id]}"


def prune(run: Run) -> None:
    """Deletes the weights that the run's settings do not keep, and logs it. Called at the end of an iteration."""
    with run.store.lock(PRUNING):
        found = pruning(run)
        if found.turn in found.stays:
            log.info("%s", found.staying(found.turn))
        if found.weights or found.states:
            # An optimizer's state is deleted in every iteration: that needs no line in the log.
            log.log(logging.INFO if found.weights else logging.DEBUG, "pruned: %s", found.going())
            _carry_out(found)


def prunings(store: Store, run_id: str | None, keep: Keep) -> list[Pruning]:
    """What a rule would prune of every run of the archive, or of one run.

    Raises:
        UserError: there is no such run.
    """
    rows = db.query(store, "runs_recorded").to_pylist()
    if run_id is not None:
        names = [row["run_id"] for row in rows]
        rows = [row for row in rows if row["run_id"] == run_id]
        if not rows:
            raise UserError(f"run {run_id!r} is not in {store.layout.root}; there are {listed(names) or 'none'}")
    found = []
    for row in rows:
        config = recorded(row["recipe"], row["config"]).model_copy(update={"keep": keep})
        processes = Processes(config, store)  # none of them is started
        found.append(pruning(Run(row["run_id"], row["flow"], config, store, row["base_policy_id"], processes)))
    return found


def carry_out(store: Store, shown: Iterable[Pruning]) -> int:
    """Deletes what was shown, except for what is needed by now; returns the bytes freed.

    Raises:
        UserError: a run is active.
    """
    with store.alone("prune"):
        return sum(_carry_out(_both(before, pruning(before.run))) for before in shown)


def pruning(run: Run) -> Pruning:
    """The weights on disk that the run's settings do not keep, and the rest of a pruning that was interrupted."""
    store, rule = run.store, run.config.keep
    rows = run.query("policies_of", run_id=run.run_id).to_pylist()
    made = {row["policy_id"]: row["iteration"] for row in rows if row["location"] == _weights(store, row["policy_id"])}
    names, there, noted = list(made), sizes(store), pruned(store)
    due = [name for name in names[:-NEWEST] if made[name] % rule.policies_every]
    due = [name for name in due if _weights(store, name) in there.keys() - noted]
    needed = _needed(run, max(made.values())) if due else {}
    old = names[: -rule.optimizer_states] if rule.optimizer_states else []

    def going(address: Callable[[Store, str], str], wanted: set[str]) -> dict[str, int]:
        paths = {name: address(store, name) for name in names}
        return {name: there[path] for name, path in paths.items() if path in there and (name in wanted or path in noted)}

    weights, states = going(_weights, set(due) - set(needed)), going(_state, set(old))
    return Pruning(
        run,
        weights,
        states,
        stays={name: needed[name] for name in due if name in needed},
        turn=names[-NEWEST - 1] if len(names) > NEWEST else None,
        passes=[
            after
            for before, after in pairwise(names)
            if before in {*weights, *states} and noted.isdisjoint((_weights(store, before), _state(store, before)))
        ],
    )


def _needed(run: Run, newest: int) -> dict[str, str]:
    """Policies that are still needed, each with the reason."""
    next_reference = run.reference_id(newest + 1) or run.policy_id(newest)  # or: the policy of its new rows
    needed = {next_reference: f"it is the reference of the next pass of run {run.run_id}"}
    for row in run.query("runs_recorded").to_pylist():
        needed.setdefault(row["base_policy_id"], f"run {row['run_id']} began from it")
    for label, iteration in _labelled(run):
        needed.setdefault(run.policy_id(iteration), f"it is the run's newest in the snapshot labelled {label}")
    return needed


def _labelled(run: Run) -> Iterator[tuple[str, int]]:
    """Each label, with the newest iteration of the run whose policy is in the labelled state."""
    labels = run.query("labelled_by_then", run_id=run.run_id).to_pylist()
    there = set(run.store.files.listing("policies")) if labels else set()
    for row in labels:
        version, iteration = row["version"], row["iteration"]
        # Times are used only if the state itself can no longer be read, because clocks of two machines may differ.
        if version is not None and set(run.store.shards("policies", version)) <= there:
            state = db.connect(run.store, {"policies": version}, only="policies")
            newest = "SELECT max(iteration) FROM policies WHERE run_id = $1"
            ((iteration,),) = state.execute(newest, [run.run_id]).fetchall()
        if iteration is not None:
            yield row["label"], iteration


def _both(a: Pruning, b: Pruning) -> Pruning:
    weights = {name: n for name, n in a.weights.items() if name in b.weights}
    return replace(a, weights=weights, states={name: n for name, n in a.states.items() if name in b.states})


def _carry_out(found: Pruning) -> int:
    store, keep = found.run.store, found.run.config.keep
    for name in found.weights:
        _take(store, _weights(store, name), _policies_rule(keep))
    for name in found.states:
        _take(store, _state(store, name), _states_rule(keep))
    return found.n_bytes


def _take(store: Store, address: str, rule: str) -> None:
    if store.pruned(address) is None:

        def write(path: Path) -> None:
            path.write_text(rule)

        store.files.make(layout.tombstone(address), write)
    store.files.clear(address)


def _weights(store: Store, policy_id: str) -> str:
    return store.layout.relative(store.layout.weights(policy_id))


def _state(store: Store, policy_id: str) -> str:
    return store.layout.relative(store.layout.optimizer(policy_id))


def _policies_rule(keep: Keep) -> str:
    return f"keep.policies_every = {keep.policies_every}"


def _states_rule(keep: Keep) -> str:
    return f"keep.optimizer_states = {keep.optimizer_states}"
