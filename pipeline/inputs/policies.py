"""The policy a run starts from: the built-in one, trained once for each archive and seed, or a user's own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.children.team import Team
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.progress import bar, log
from pipeline.query import db
from pipeline.recipes.config import Config
from reval.weights import n_weights, tokenizer_digest, weights_digest
from schemas import UserError, digest


def base_folder(config: Config) -> Path | None:
    """The folder of the recipe's base policy; None: it is the built-in one, which is made here.

    Raises:
        UserError: see `find_base`.
    """
    return None if config.policy.base == EMBEDDED else find_base(config.policy.base)


def base_policy(store: Store, config: Config, folder: Path | None, trainer: Callable[[], Team]) -> str:
    """The id of the recipe's base policy, whose `base_folder` is given; adds it to the archive if it is missing."""
    return _embedded(store, config, trainer) if folder is None else external(store, folder, config.policy.base)


def known_base(store: Store, config: Config, folder: Path | None) -> str | None:
    """The id of the recipe's base policy, whose `base_folder` is given; None: the archive does not have it."""
    if folder is None:
        policy_id = _embedded_id(config)
        return policy_id if store.committed(policy_id, "policies") else None
    there = "SELECT policy_id FROM policies WHERE location = $1"
    found = db.connect(store, only=there).execute(there, [str(folder)]).fetchone()
    return found[0] if found else None


def _embedded(store: Store, config: Config, trainer: Callable[[], Team]) -> str:
    how, policy_id = _how(config), _embedded_id(config)
    folder = store.layout.weights(policy_id)
    if store.recover(policy_id, ("policies",)):
        _record(store, policy_id, folder)
        return policy_id
    with bar("pre-train the arithmetic model") as progress:
        result, _ = trainer().call("pretrain", progress=progress, folder=str(folder), **how)
    store.files.persist(folder)
    log.info(
        "base policy %s: %s parameters, %d steps of pre-training, solves %.0f%% of the held-out problems",
        policy_id,
        f"{result['n_parameters']:,}",
        result["steps"],
        100 * result["accuracy"],
    )
    _record(store, policy_id, folder)
    return policy_id


def _how(config: Config) -> dict[str, Any]:
    """The settings that decide the weights of the built-in policy."""
    return {
        "problems_seed": config.prompts.seed,
        "seed": config.policy.seed,
        "target_accuracy": config.policy.target_accuracy,
    }


def _embedded_id(config: Config) -> str:
    return f"arithmetic-base-{digest(*_how(config).values())[:8]}"


def find_base(base: str, asked: str = "policy.base") -> Path:
    """The folder of a user's own policy, downloaded if `base` is a hub name. `asked` names the setting in error messages.

    Raises:
        UserError: `base` is neither a folder with a model in it, nor a name on the hub.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(base))
        except Exception as error:  # the hub's client raises many kinds; all mean the same here
            reason = str(error).splitlines()[0]
            raise UserError(f"{asked} {base!r} is not a folder, and the hub does not give it: {reason}") from None
    folder = folder.resolve()
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(f"{asked} {folder} is not a model folder: it wants config.json and *.safetensors files")
    return folder


def external(store: Store, folder: Path, base: str) -> str:
    """The id of a user's own policy; adds it to the archive if it is missing. Its folder is not copied.

    Args:
        base: the user's name for it, a folder or a hub name. The id is made of its last part and a digest of the weights.
    """
    weights = weights_digest(folder)
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(base).name.lower()).strip("-.") or "policy"
    policy_id = f"{stem[:40]}-{weights[:8]}"
    _record(store, policy_id, folder)
    return policy_id


def _record(store: Store, policy_id: str, folder: Path) -> None:
    """Adds the policy's row and the snapshot with it, if they are missing."""
    if not store.recover(policy_id, ("policies",)):
        store.write(policy_id, {"policies": _row(store, policy_id, folder)})
    store.snapshot(f"{policy_id}/snapshot", "init")


def _row(store: Store, policy_id: str, folder: Path) -> pa.Table:
    inside = folder.is_relative_to(store.layout.local)
    row = {
        "policy_id": policy_id,
        "parent_id": None,
        "run_id": None,
        "iteration": None,
        "pass_id": None,
        "weights_digest": weights_digest(folder),
        "tokenizer_digest": tokenizer_digest(folder),
        "location": store.layout.relative(folder) if inside else str(folder),
        "n_parameters": n_weights(folder),
    }
    return pa.Table.from_pylist([row])


def policy_location(store: Store, policy_id: str) -> str:
    """The folder of a policy's weights.

    Raises:
        UserError: the archive has no such policy, or its weights were pruned, or its folder is missing.
    """
    folder = store.weights(address(store, policy_id))
    if not folder.is_dir():
        raise UserError(
            f"policy {policy_id!r}: its folder {folder} is not there; `reval export --weights` takes it along"
        )
    return str(folder)


def address(store: Store, policy_id: str) -> str:
    """The location of a policy's weights, from its row.

    Raises:
        UserError: the archive has no such policy, or its weights were pruned.
    """
    statement = "SELECT location, run_id, iteration FROM policies WHERE policy_id = $1"
    found = db.connect(store, only=statement).execute(statement, [policy_id]).fetchone()
    if found is None:
        raise UserError(
            f"policy {policy_id!r} is not in {store.layout.root}; "
            '`reval sql "SELECT policy_id FROM policies"` lists those that are'
        )
    location, run_id, iteration = found
    if location is None:
        raise UserError(f"policy {policy_id!r} is known by name only: it came with imported rollouts, without weights")
    if (rule := store.pruned(location)) is not None:
        others = db.query(store, "policies_of", run_id=run_id).to_pylist()
        others.sort(key=lambda row: abs(row["iteration"] - iteration))
        near = next((row["policy_id"] for row in others if store.pruned(row["location"]) is None), "none of its run")
        raise UserError(
            f"policy {policy_id!r}: its weights were pruned, by {rule}; the nearest that has them is {near}; "
            "`--set keep.policies_every=1` keeps all to come, `reval import` of an export with --weights brings them back"
        )
    return str(location)
