"""One run of a flow: its settings, its archive, and who may go on with it."""

import difflib
import importlib.util
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.archive.locks import Held, words
from pipeline.archive.store import Store
from pipeline.archive.weights import PRUNING
from pipeline.engines.base import installed_version
from pipeline.inputs import policies, prompts
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.inputs.policies import base_policy, find_base, known_base
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.recipes.config import Config, Retrain, differences, recorded
from pipeline.replay import draws, schedule
from pipeline.runs.processes import Processes
from pipeline.verifiers import verifier, verifier_id
from schemas import UserError, check_name


class Busy(UserError):
    """Another process is at the run."""


class Run:
    """A named run over an archive. Stages read it; they keep nothing in it."""

    def __init__(
        self, run_id: str, flow: str, config: Config, store: Store, base_policy_id: str, processes: Processes
    ) -> None:
        self.run_id, self.flow, self.config, self.store = run_id, flow, config, store
        self.base_policy_id = base_policy_id
        self.processes = processes

    def policy_id(self, iteration: int) -> str:
        """The policy an iteration ends with, which is also the name of its training pass; 0 is where the run began."""
        return self.base_policy_id if iteration == 0 else f"{self.run_id}-{iteration:04d}"

    def reference_id(self, iteration: int) -> str | None:
        """The reference of an iteration's pass: the policy at the last reset before it; null: each row's own."""
        if self.config.train.reference == "behaviour":
            return None
        every = self.config.train.reset_every_iterations
        return self.policy_id((iteration - 1) // every * every if every else 0)

    def location(self, policy_id: str) -> str:
        """Where a policy's weights lie."""
        return policies.policy_location(self.store, policy_id)

    def snapshot_id(self, iteration: int) -> str | None:
        """The state of the archive an iteration draws from; null if that is not there yet.

        `iterate` draws from what its own score left; all passes of `retrain` from what its run began with.
        """
        found = self.query("drawn_from", run_id=self.run_id, iteration=iteration)
        return found["snapshot_id"][0].as_py() if len(found) else None

    def has_ended(self, iteration: int, stage: str) -> bool:
        found = self.query("stage_ended", run_id=self.run_id, iteration=iteration, stage=stage)
        return bool(found["ended"][0].as_py())

    def query(self, name: str, **inputs: Any) -> pa.Table:
        """The rows of `pipeline/sql/NAME.sql` over the archive as it is now."""
        return db.query(self.store, name, **inputs)

    def next_iteration(self) -> int:
        """The first iteration that has not ended."""
        found = self.query("iterations_ended", run_id=self.run_id)
        return int(found["n_ended"][0].as_py()) + 1


def check(
    flow: str,
    config: Config,
    archive: str | Path,
    *,
    name: str | None = None,
    policy_id: str | None = None,
    at: str | None = None,
    coming: Collection[str] = (),
) -> None:
    """Finds what is wrong with a request before anything is made for it.

    Args:
        policy_id: the policy that is retrained or evaluated; null: it is not in the archive yet.
        coming: sources of questions that the request itself will bring.

    Raises:
        UserError: the run's name cannot be one or belongs to a run with other settings (the message names the first that
            differs), the engine or a package that a setting wants is not installed, the verifier, a policy, the questions
            or a state are not to be had, or `archive` is, or holds, something else.
    """
    check_name("run", name or config.recipe)
    wanted = {f"runtime.trackers = {tracker}": str(tracker) for tracker in config.runtime.trackers}
    if config.train.lora_rank:
        wanted["train.lora_rank"] = "peft"
    for setting, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{setting} wants {package}, which is not installed: pip install {package}, or leave it out")
    if flow in ("iterate", "evaluate"):
        installed_version(config.runtime.engine)
        verifier(config.score.verifier)
    verifier_id(config.score.verifier)
    if flow == "iterate":
        schedule.check(config)
        if config.retrain != Retrain():
            raise UserError(
                "retrain.runs, retrain.policies and retrain.where say what `reval retrain` draws from; leave them out"
            )
    if config.policy.base != EMBEDDED and flow != "evaluate":
        find_base(config.policy.base)
    begins = flow in ("iterate", "init") or (flow == "evaluate" and policy_id is None)
    if begins and Store.vacant(archive, config.runtime.storage):
        prompts.check(None, config, flow, coming)
        return
    store = Store(archive, config.runtime.storage)
    prompts.check(store, config, flow, coming)
    if policy_id is not None:
        policies.policy_location(store, policy_id)
    state = versions.resolve(store, at)
    snapshot_id = state.snapshot_id
    if flow == "retrain":
        _check_draws(store, config, state, policy_id or known_base(store, config), name)
    if name is not None and (found := _recorded(store, name)):
        _check_same(name, flow, config, policy_id, snapshot_id, found)


def _check_draws(store: Store, config: Config, state: versions.State, policy_id: str | None, name: str | None) -> None:
    """Draws a retraining's first pass, for nothing but to see that it can be drawn.

    Raises:
        UserError: it cannot be: an unknown run or policy, a condition or a weight that is none, too few rows.
    """
    if config.replay.if_short == "wait":
        raise UserError("replay.if_short = 'wait': a retraining makes no rollouts that it could wait for; use smaller")
    for column, names in (("run_id", config.retrain.runs), ("policy_id", config.retrain.policies)):
        there = f"SELECT DISTINCT {column} FROM trajectories ORDER BY 1"
        known = (
            [row[0] for row in db.connect(store, state.versions, only=there).execute(there).fetchall()] if names else []
        )
        if unknown := sorted({*names} - {*known}):
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:9]) or 'none'}"
            raise UserError(
                f"no rollout in {store.layout.root} is of {column.removesuffix('_id')} {unknown[0]!r}; {hint}"
            )
    if policy_id is not None:
        run_id = name or "retrain"
        where = draws.scope(config, "retrain", run_id, 1, state.versions, policy_id, policy_id)
        draws.rows(store, where, config.replay, f"{run_id}-0001", 1)


def _check_same(
    name: str, flow: str, config: Config, policy_id: str | None, snapshot_id: str | None, found: dict[str, Any]
) -> None:
    """What a recorded run is asked for now has to be what it was begun with; null is not asked for."""
    # A setting that its reval did not know yet was at its default.
    began, asked = recorded(config.recipe, found["config"]).record(), config.record()
    theirs = {
        "flow": found["flow"],
        "base_policy": policy_id and found["base_policy_id"],
        "snapshot": snapshot_id and found["snapshot_id"],
        **began,
    }
    ours = {"flow": flow, "base_policy": policy_id, "snapshot": snapshot_id, **asked}
    if changed := next(differences(ours, theirs), None):
        raise UserError(f"run {name}: {changed} since it began; choose another run name or the old value")


@contextmanager
def open_run(
    flow: str,
    config: Config,
    archive: str | Path,
    *,
    name: str | None = None,
    policy_id: str | None = None,
    at: str | None = None,
    begin: bool = True,
    verbose: bool = False,
    processes: Processes | None = None,
) -> Iterator[Run]:
    """Begins a run, or goes on with one; ends its processes whatever happens.

    Without a name, it is the unfinished run of the same flow and settings if there is one, else a new one named after
    the recipe (of `retrain`, after the flow). An archive, base policy and prompts are made where they are missing. The
    run's name is locked for as long: no other process can go on with it meanwhile.

    Args:
        policy_id: the policy to start from; null is the recipe's base policy.
        at: the state a retraining draws from, a snapshot, label or time; null is the newest when it begins.
        begin: make a new run if none of these settings is unfinished.
        processes: of other runs of the same `runtime` and `score`, whose caller ends them; null: the run has its own.

    Raises:
        UserError: see `check`; or there is no run to go on with and none may begin.
        Busy: another process runs it.
    """
    check(flow, config, archive, name=name, policy_id=policy_id, at=at)
    options = config.runtime.storage
    store = Store.create(archive, options) if begin and flow == "iterate" else Store(archive, options)
    snapshot_id = versions.resolve(store, at).snapshot_id
    asked = (flow, config, policy_id, snapshot_id)
    if not begin and not (_recorded(store, name) if name else _unfinished(store, *asked)):
        raise UserError(f"no run {name or 'of these settings'} to go on with in {archive}; `reval generate` begins one")
    if name and (recorded := _recorded(store, name)):
        policy_id = recorded["base_policy_id"]  # it goes on from where it began, whether or not that is said again
    with ExitStack() as stack:
        if processes is None:
            processes = stack.enter_context(closing(Processes(config, store, verbose=verbose)))
        with store.lock("base"):  # questions and base policies belong to all runs
            if flow == "iterate":
                prompts.ensure(store, config)
            if policy_id is None:
                policy_id = base_policy(store, config, processes.trainer)
        run_id = name or _unfinished(store, flow, config, policy_id, snapshot_id) or _new_name(store, flow, config)
        processes.who = run_id
        with _alone(store, run_id):
            if found := _recorded(store, run_id):
                _check_same(run_id, flow, config, policy_id, snapshot_id, found)
            else:
                with store.lock(PRUNING):  # which passes over what a run began from
                    policies.address(store, policy_id)
                    _record(store, run_id, flow, config, policy_id, snapshot_id)
            yield Run(run_id, flow, config, store, policy_id, processes)


@contextmanager
def _alone(store: Store, run_id: str) -> Iterator[None]:
    """Holds the run's name.

    Raises:
        Busy: another process has it; the message says which.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(store.lock(f"run-{run_id}", wait=False))
        except Held as error:
            raise Busy(
                f"run {run_id} is being run by {words(error.holder)}; wait for it, or choose another name with --run"
            ) from None
        yield


def _recorded(store: Store, run_id: str) -> dict[str, Any] | None:
    """What a run's row says; null: there is no such run."""
    found = db.query(store, "run_recorded", run_id=run_id).to_pylist()
    return found[0] if found else None


def _unfinished(store: Store, flow: str, config: Config, policy_id: str | None, snapshot_id: str | None) -> str | None:
    asked = {"flow": flow, "base_policy_id": policy_id, "snapshot_id": snapshot_id, "n_iterations": config.iterations}
    for found in db.query(store, "unfinished_runs", **asked).to_pylist():
        if recorded(config.recipe, found["config"]).record() == config.record():
            return str(found["run_id"])
    return None


def _new_name(store: Store, flow: str, config: Config) -> str:
    stem, number = config.recipe if flow == "iterate" else flow, 1
    while _recorded(store, name := stem if number == 1 else f"{stem}-{number}"):
        number += 1
    return name


def _record(store: Store, run_id: str, flow: str, config: Config, policy_id: str, snapshot_id: str | None) -> None:
    newest = db.query(store, "newest_snapshot")["snapshot_id"].to_pylist()
    row = {
        "run_id": run_id,
        "flow": flow,
        "recipe": config.recipe,
        "config": config.record_json(),
        "base_policy_id": policy_id,
        "benchmark": ", ".join(each.name for each in prompts.benchmarks(store, config)),
        "n_iterations": config.iterations,
        "snapshot_id": snapshot_id or (newest[0] if newest else None),
    }
    store.write(f"{run_id}/run", {"runs": pa.Table.from_pylist([row])})
