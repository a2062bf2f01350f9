"""The request for a run: it is checked before anything is made for it, and compared with the recorded runs."""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.archive.store import Store
from pipeline.engines.base import installed_version
from pipeline.inputs import policies, prompts
from pipeline.inputs.policies import base_folder, known_base
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.recipes.config import Config, Retrain, differences, recorded
from pipeline.replay import draws, schedule
from pipeline.verifiers import verifier, verifier_id
from schemas import UserError, check_name, did_you_mean


@dataclass(frozen=True)
class Request:
    """A request that `check` found possible; `open_run` takes it and does not check it again.

    Attributes:
        base: the folder of the recipe's base policy; None: it is made here, or a policy is evaluated.
        name: the run's name; None: the unfinished run of these settings, or else a new one.
        policy_id: the policy to start from; None: the recipe's base policy.
        snapshot_id: the state a retraining draws from; None: the newest when it begins.
    """

    flow: str
    config: Config
    archive: str | Path
    base: Path | None
    name: str | None
    policy_id: str | None
    snapshot_id: str | None


def check(
    flow: str,
    config: Config,
    archive: str | Path,
    *,
    name: str | None = None,
    policy_id: str | None = None,
    at: str | None = None,
    coming: Collection[str] = (),
) -> Request:
    """Finds what is wrong with a request before anything is made for it.

    Args:
        flow: iterate, retrain, init or evaluate.
        policy_id: the policy that is retrained or evaluated; None: it is not in the archive yet.
        at: the state a retraining draws from, a snapshot, label or time; None: the newest when it begins.
        coming: sources of questions that the request itself will bring.

    Raises:
        UserError: the run's name is not valid, or belongs to a run with other settings (the message names the first that
            differs); the engine or a package that a setting needs is not installed; the verifier, a policy, the questions
            or a state are missing; a new retraining could not make its first draw; or something else is at `archive`.
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
    base = base_folder(config) if flow != "evaluate" else None
    begins = flow in ("iterate", "init") or (flow == "evaluate" and policy_id is None)
    if begins and Store.vacant(archive, config.runtime.storage):
        prompts.check(None, config, flow, coming)
        return Request(flow, config, archive, base, name, policy_id, None)
    store = Store(archive, config.runtime.storage)
    prompts.check(store, config, flow, coming)
    if policy_id is not None:
        policies.policy_location(store, policy_id)
    state = versions.resolve(store, at)
    request = Request(flow, config, archive, base, name, policy_id, state.snapshot_id)
    if name is not None and (found := recorded_run(store, name)):
        check_same(request, name, found)
    elif flow == "retrain":
        known = replace(request, policy_id=policy_id or known_base(store, config, base))
        # An unfinished run exists already: if its first draw is missing, the stage reports what is wrong.
        if name is not None or known.policy_id is None or unfinished(store, known) is None:
            _check_draws(store, known, state)
    return request


def _check_draws(store: Store, request: Request, state: versions.State) -> None:
    """Draws a retraining's first pass, only to check that this is possible.

    Args:
        request: if its policy_id is None, the archive does not have the policy yet, and nothing is drawn.

    Raises:
        UserError: it is not possible: an unknown run or policy, a condition or weight that is not valid, or too few rows.
    """
    config, policy_id = request.config, request.policy_id
    if config.replay.if_short == "wait":
        raise UserError("replay.if_short = 'wait': a retraining makes no rollouts that it could wait for; use smaller")
    for column, names in (("run_id", config.retrain.runs), ("policy_id", config.retrain.policies)):
        there = f"SELECT DISTINCT {column} FROM trajectories ORDER BY 1"
        known = (
            [row[0] for row in db.connect(store, state.versions, only=there).execute(there).fetchall()] if names else []
        )
        if unknown := sorted({*names} - {*known}):
            hint = did_you_mean(unknown[0], known, f"there are {', '.join(known[:9]) or 'none'}")
            raise UserError(
                f"no rollout in {store.layout.root} is of {column.removesuffix('_id')} {unknown[0]!r}; {hint}"
            )
    if policy_id is not None:
        run_id = request.name or request.flow
        where = draws.scope(config, request.flow, run_id, 1, state.versions, policy_id, policy_id)
        draws.rows(store, where, config.replay, f"{run_id}-0001", 1)


def check_same(request: Request, run_id: str, found: dict[str, Any]) -> None:
    """Compares a request to continue a run with the settings the run began with. A None in the request is not compared.

    Args:
        found: the run, see `recorded_run`.

    Raises:
        UserError: they differ; the message names the first setting that does.
    """
    config, policy_id, snapshot_id = request.config, request.policy_id, request.snapshot_id
    # A setting that did not exist when the run began is at its default.
    began, asked = recorded(config.recipe, found["config"]).record(), config.record()
    theirs = {
        "flow": found["flow"],
        "base_policy": policy_id and found["base_policy_id"],
        "snapshot": snapshot_id and found["snapshot_id"],
        **began,
    }
    ours = {"flow": request.flow, "base_policy": policy_id, "snapshot": snapshot_id, **asked}
    if changed := next(differences(ours, theirs), None):
        raise UserError(f"run {run_id}: {changed} since it began; choose another run name or the old value")


def recorded_run(store: Store, run_id: str) -> dict[str, Any] | None:
    """A run's row: flow, config, base_policy_id and snapshot_id; None: there is no such run."""
    found = db.query(store, "run_recorded", run_id=run_id).to_pylist()
    return found[0] if found else None


def unfinished(store: Store, request: Request) -> str | None:
    """The newest run of the same flow, settings, policy (None: any) and state (None: any) that is not finished.

    Returns:
        its name; None: there is no such run.
    """
    config = request.config
    asked = {
        "flow": request.flow,
        "base_policy_id": request.policy_id,
        "snapshot_id": request.snapshot_id,
        "n_iterations": config.iterations,
    }
    for found in db.query(store, "unfinished_runs", **asked).to_pylist():
        if recorded(config.recipe, found["config"]).record() == config.record():
            return str(found["run_id"])
    return None
