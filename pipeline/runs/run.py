"""One run of a flow: its settings, its archive, and the lock that lets only one process continue it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.archive.locks import Held, words
from pipeline.archive.store import Store
from pipeline.archive.weights import PRUNING
from pipeline.inputs import policies, prompts
from pipeline.inputs.policies import base_policy
from pipeline.query import db
from pipeline.recipes.config import Config
from pipeline.runs.processes import Processes
from pipeline.runs.request import Request, check_same, recorded_run, unfinished
from schemas import UserError, pass_name


class Busy(UserError):
    """Another process works on the run."""


class Run:
    """A named run over an archive. Stages read it; they keep nothing in it."""

    def __init__(
        self, run_id: str, flow: str, config: Config, store: Store, base_policy_id: str, processes: Processes
    ) -> None:
        self.run_id, self.flow, self.config, self.store = run_id, flow, config, store
        self.base_policy_id = base_policy_id
        self.processes = processes

    def policy_id(self, iteration: int) -> str:
        """The policy an iteration ends with, which is also the name of its training pass; 0: the run's base policy."""
        return self.base_policy_id if iteration == 0 else pass_name(self.run_id, iteration)

    def reference_id(self, iteration: int) -> str | None:
        """The reference of an iteration's pass: the policy at the last reset before it; None: each row has its own."""
        if self.config.train.reference == "behaviour":
            return None
        every = self.config.train.reset_every_iterations
        return self.policy_id((iteration - 1) // every * every if every else 0)

    def location(self, policy_id: str) -> str:
        """The folder of a policy's weights."""
        return policies.policy_location(self.store, policy_id)

    def snapshot_id(self, iteration: int) -> str | None:
        """The state of the archive an iteration draws from; None: there is none yet.

        In `iterate` it is the state after the iteration's score stage, in `retrain` the state when the run began.
        """
        found = self.query("drawn_from", run_id=self.run_id, iteration=iteration)
        return found["snapshot_id"][0].as_py() if len(found) else None

    def has_ended(self, iteration: int, stage: str) -> bool:
        found = self.query("stage_ended", run_id=self.run_id, iteration=iteration, stage=stage)
        return bool(found["ended"][0].as_py())

    def query(self, name: str, **inputs: Any) -> pa.Table:
        """The rows of NAME.sql over the archive as it is now."""
        return db.query(self.store, name, **inputs)

    def next_iteration(self) -> int:
        """The first iteration that has not ended."""
        found = self.query("iterations_ended", run_id=self.run_id)
        return int(found["n_ended"][0].as_py()) + 1


@contextmanager
def open_run(
    request: Request, *, begin: bool = True, verbose: bool = False, processes: Processes | None = None
) -> Iterator[Run]:
    """Begins a run, or continues one; always ends its processes afterwards.

    Without a name, it is the unfinished run of the same flow and settings if there is one, else a new one named after
    the recipe (in `retrain`, after the flow). A missing archive, base policy or prompts are made. The run's name is
    locked until the end, so no other process can continue the run at the same time.

    Args:
        request: what `check` returned. If another process has made a run of this name since, that is found here.
        begin: make a new run if there is no unfinished run of these settings.
        processes: those of other runs of the same `runtime` and `score`; the caller ends them. None: the run starts and
            ends its own.

    Raises:
        UserError: there is no run to continue and none may begin, or the run of this name has other settings.
        Busy: another process works on the run.
    """
    flow, config, archive, name = request.flow, request.config, request.archive, request.name
    options = config.runtime.storage
    store = Store.create(archive, options) if begin and flow == "iterate" else Store(archive, options)
    if not begin and not (recorded_run(store, name) if name else unfinished(store, request)):
        raise UserError(f"no run {name or 'of these settings'} to go on with in {archive}; `reval generate` begins one")
    policy_id = request.policy_id
    if policy_id is None and name and (found := recorded_run(store, name)):
        policy_id = found["base_policy_id"]  # the run's own base policy need not be given again
    with ExitStack() as stack:
        if processes is None:
            processes = stack.enter_context(closing(Processes(config, store, verbose=verbose)))
        with store.lock("base"):  # questions and base policies belong to all runs
            if flow == "iterate":
                prompts.ensure(store, config)
            if policy_id is None:
                policy_id = base_policy(store, config, request.base, processes.trainer)
        request = replace(request, policy_id=policy_id)
        run_id = name or unfinished(store, request) or _new_name(store, flow, config)
        processes.who = run_id
        with _alone(store, run_id):
            if found := recorded_run(store, run_id):
                check_same(request, run_id, found)
            else:
                with store.lock(PRUNING):  # pruning keeps the policy that a run began from
                    policies.address(store, policy_id)
                    _record(store, request, run_id)
            yield Run(run_id, flow, config, store, policy_id, processes)


@contextmanager
def _alone(store: Store, run_id: str) -> Iterator[None]:
    """Locks the run's name.

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


def _new_name(store: Store, flow: str, config: Config) -> str:
    stem, number = config.recipe if flow == "iterate" else flow, 1
    while recorded_run(store, name := stem if number == 1 else f"{stem}-{number}"):
        number += 1
    return name


def _record(store: Store, request: Request, run_id: str) -> None:
    config = request.config
    newest = db.query(store, "newest_snapshot")["snapshot_id"].to_pylist()
    row = {
        "run_id": run_id,
        "flow": request.flow,
        "recipe": config.recipe,
        "config": config.record_json(),
        "base_policy_id": request.policy_id,
        "benchmark": ", ".join(each.name for each in prompts.evaluation_sets(store, config)),
        "n_iterations": config.iterations,
        "snapshot_id": request.snapshot_id or (newest[0] if newest else None),
    }
    store.write(f"{run_id}/run", {"runs": pa.Table.from_pylist([row])})
