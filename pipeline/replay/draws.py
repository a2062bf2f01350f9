"""Draws the rows of a pass: candidates of a pinned state, chances by the draw rule, and a keyed digest.

The same call always draws the same rows, for any number of threads, layout of files or machine. The rows depend on the
pinned state, on the archive's rows of the passes that led to the policy, and on the settings. All of it is SQL (`sql/`):
eligible, candidates, draw_*, pick.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.entries import FileFilter, holding
from pipeline.archive.store import Store, Versions
from pipeline.progress import log
from pipeline.query import db
from pipeline.recipes.config import Config, Replay, Retrain, Reward
from pipeline.recipes.schedules import at
from pipeline.replay import expressions
from pipeline.replay.schedule import EVERYTHING, Part, n_fresh, parts
from pipeline.verifiers import verifier_id
from schemas import UserError
from schemas.enums import Verdict

# Rules whose chances depend on how earlier passes used a rollout.
LOOKING_BACK = {"fresh_priority", "custom"}
TEXT, INT, FLOAT = pa.string(), pa.int64(), pa.float64()
NO_HISTORY = pa.schema({"trajectory_id": TEXT, "n_uses": INT, "residual": FLOAT}).empty_table()
SHAPING = pa.schema({"verdict": TEXT, "worth": FLOAT})
PICKS = pa.schema({"update": INT, "slot": INT, "trajectory_id": TEXT, "source": TEXT, "weight": FLOAT, "rule": TEXT})


@dataclass(frozen=True)
class Scope:
    """The rollouts a pass may draw from, and how their targets are computed."""

    versions: Versions  # the pinned state
    among: Retrain  # runs, policies and condition
    base_policy_id: str  # the rollouts must be of this policy's tokenizer
    parent_id: str  # the policy to be trained
    verifier_id: str
    reward: Reward
    baseline: str
    beta: float
    per_iteration: int  # about the number of rollouts per iteration; decides how far back to look first
    iteration: int | None  # the newest one; None: the newest iteration in the state


def scope(
    config: Config, flow: str, run_id: str, iteration: int, versions: Versions, base_policy_id: str, parent_id: str
) -> Scope:
    """The scope of an iteration's pass: in `iterate` the run's own rollouts, in `retrain` those the recipe names."""
    own = flow == "iterate"
    return Scope(
        versions=versions,
        among=Retrain(runs=[run_id]) if own else config.retrain,
        base_policy_id=base_policy_id,
        parent_id=parent_id,
        verifier_id=verifier_id(config.score.verifier),
        reward=config.reward,
        baseline=config.train.baseline,
        beta=config.train.beta,
        per_iteration=n_fresh(config),
        iteration=iteration if own else None,
    )


def rows(store: Store, where: Scope, settings: Replay, pass_id: str, iteration: int) -> pa.Table:
    """The rows of draws of a pass.

    Raises:
        UserError: there is nothing to train on; also see `draw` and `opened`.
    """
    connection = opened(store, where, settings)
    counts = "SELECT count(*), count(*) FILTER (age_iterations = 0), (SELECT count(*) FROM left_out) FROM eligible"
    n, n_newest, n_left_out = connection.execute(counts).fetchone() or (0, 0, 0)
    if 0 < n == n_left_out:
        raise UserError(f"retrain.where = {where.among.where!r} is true of none of {n:,} rollouts")
    own = where.iteration is not None
    if n == 0 or (own and n_newest == 0):
        raise UserError(
            f"pass {pass_id}: there is nothing to train on: "
            f"{'no rollout of its iteration' if own else f'no rollout in {store.layout.root} that this policy can read'} "
            f"was judged by {where.verifier_id}, which `reval rescore` has them judged by; "
            '`reval sql "SELECT verifier_id, verdict, split, count(n_response_tokens) FROM rollouts GROUP BY ALL"` '
            "says more: held-out questions and text without token ids are not trained on"
        )
    found = draw(connection, settings, pass_id, iteration, fresh=own)
    if not len(found) and settings.if_short != "wait":
        raise UserError(
            f"pass {pass_id}: its draw rule takes none of {n:,} rollouts; choose another, or other settings of it"
        )
    return found.append_column("pass_id", pa.array([pass_id] * len(found), pa.string()))


def opened(store: Store, scope: Scope, settings: Replay) -> duckdb.DuckDBPyConnection:
    """A database with the view `candidates` (sql/candidates.sql), as far back in time as the rules need.

    Its cost depends on the size of the window, not of the archive. Only a condition is evaluated over the whole archive.

    Raises:
        UserError: the condition is not valid, see `expressions.wanted`.
    """
    now = scope.iteration
    if now is None:
        among = {"runs": scope.among.runs, "policies": scope.among.policies}
        found = db.rows(db.connect(store, scope.versions, only=db.sql("newest_iteration")), "newest_iteration", **among)
        now = found["iteration"][0].as_py() or 0
    wanted = expressions.wanted(store, scope.versions, scope.among.where) if scope.among.where.strip() else None
    for since in depths(settings, now, scope.per_iteration, first=0):
        connection = _eligible(store, scope, now, since)
        if wanted is None:
            connection.execute("CREATE TEMP TABLE left_out (trajectory_id VARCHAR)")
        else:
            connection.register("wanted", wanted)
            rest = "SELECT trajectory_id FROM eligible ANTI JOIN wanted USING (trajectory_id)"
            connection.execute(f"CREATE TEMP TABLE left_out AS {rest}")
        history = _history(store, scope, since) if settings.rules() & LOOKING_BACK else NO_HISTORY
        connection.register("history", history)
        view(connection, scope.baseline, scope.beta)
        if window_is_full(connection, settings):
            break
    return connection


def depths(settings: Replay, now: int, per_iteration: int, *, first: int) -> Iterator[int]:
    """The oldest iteration to look at for candidates, first for as many iterations as should fill the window, then for
    twice as many, and so on, down to `first` or to the bound on age.
    """
    oldest = first if settings.max_age_iterations is None else max(first, now - settings.max_age_iterations)
    window = settings.window_trajectories
    span = now + 1 if window == "all" else -(-window // per_iteration) + 1
    while (since := now - span + 1) > oldest:
        yield since
        span *= 2
    yield oldest


def _eligible(store: Store, scope: Scope, now: int, since: int) -> duckdb.DuckDBPyConnection:
    """A database with the table `eligible`. Of every table it reads only the files that may hold rows it needs."""
    filters: dict[str, FileFilter] = dict.fromkeys(("trajectories", "verdicts"), lambda _, greatest: greatest >= since)
    generators = "SELECT DISTINCT policy_id FROM trajectories WHERE iteration >= $1"
    names = db.connect(store, scope.versions, only=generators, filters=filters).execute(generators, [since]).fetchall()
    filters["policies"] = holding([scope.base_policy_id, *(name for (name,) in names)])
    connection = db.connect(store, scope.versions, only=db.sql("eligible"), filters=filters)
    worth = {verdict: getattr(scope.reward, verdict) for verdict in Verdict}
    shaped = [{"verdict": verdict, "worth": value} for verdict, value in worth.items() if value is not None]
    connection.register("shaping", pa.Table.from_pylist(shaped, SHAPING))
    own = "SELECT tokenizer_digest FROM policies WHERE policy_id = $1"
    found = connection.execute(own, [scope.base_policy_id]).fetchone()
    inputs = {
        "runs": scope.among.runs,
        "policies": scope.among.policies,
        "tokenizer_digest": found and found[0],
        "verifier_id": scope.verifier_id,
        "now": now,
        "since": since,
        "length_penalty": scope.reward.length_penalty,
        "length_buffer_tokens": scope.reward.length_buffer_tokens,
    }
    connection.execute(f"CREATE TEMP TABLE eligible AS {db.sql('eligible')}", inputs)
    return connection


def window_is_full(connection: duckdb.DuckDBPyConnection, settings: Replay) -> bool:
    """Whether the candidates fill the window, so that older rollouts could not be in it."""
    if settings.window_trajectories == "all":
        return False
    share = settings.keep_correct.share if "keep_correct" in settings.rules() else 0.0
    how = {"window_trajectories": settings.window_trajectories, "share": share}
    return bool(db.rows(connection, "window_is_full", **how)["is_full"][0].as_py())


def _history(store: Store, scope: Scope, since: int) -> pa.Table:
    """How often the passes that led to the policy used each rollout, and its residual the last time.

    These passes are finished: their rows are the same in every state of the archive that has them.
    """
    passes = db.query(store, "ancestors", policy_id=scope.parent_id)
    # A run's pass draws no rollout of the run that is newer than the pass.
    too_old = pc.and_(
        pc.is_in(passes["run_id"], pa.array(scope.among.runs, pa.string())), pc.less(passes["iteration"], since)
    )
    passes = passes.filter(pc.invert(too_old))
    names = passes["pass_id"].to_pylist()
    if not names:
        return NO_HISTORY
    connection = db.connect(store, only=db.sql("history"), filters=dict.fromkeys(("draws", "updates"), holding(names)))
    connection.register("ancestors", passes)
    return db.rows(connection, "history")


def view(connection: duckdb.DuckDBPyConnection, baseline: str, beta: float) -> None:
    """Makes the view `candidates` on its tables."""
    connection.execute("SET VARIABLE baseline = $1", [baseline])
    connection.execute("SET VARIABLE beta = $1::DOUBLE", [beta])
    connection.execute(f"CREATE VIEW candidates AS {db.sql('candidates')}")


def draw(
    connection: duckdb.DuckDBPyConnection, settings: Replay, pass_id: str, iteration: int, *, fresh: bool
) -> pa.Table:
    """The draws of an iteration's pass from the view `candidates`: all columns of the table but pass_id.

    Raises:
        UserError: there are too few rows and the recipe says to stop then; or a user's weight is not valid.
    """
    # None and not a large number: with null DuckDB computes no ranks, which are half the time of a draw from a million.
    window = None if settings.window_trajectories == "all" else settings.window_trajectories
    todo = parts(settings, iteration, fresh=fresh)
    for rule in {part.rule for part in todo}:
        if rule == "custom":
            expressions.weigh(connection, settings.custom.weight, window)
        how = getattr(settings, rule).model_dump() if hasattr(settings, rule) else {}
        inputs = {"window_trajectories": window, **how}
        statement = db.sql(f"draw_{rule}")
        wanted = {key: value for key, value in inputs.items() if f"${key}" in statement}
        connection.execute(f"CREATE OR REPLACE TEMP TABLE chances_{rule} AS {statement}", wanted)
    picks, short = list[dict[str, Any]](), list[str]()
    for update in range(settings.updates_per_iteration):
        mine, missing = _update(
            connection, [part for part in todo if part.update == update], pass_id, at(settings.importance, iteration)
        )
        short += missing
        if not (missing and settings.if_short == "wait"):
            picks += mine
    if short:
        _tell(short, settings.if_short, f"pass {pass_id}")
    connection.register("picks", pa.Table.from_pylist(picks, PICKS))
    return db.rows(connection, "picked")


def _update(
    connection: duckdb.DuckDBPyConnection, todo: Sequence[Part], pass_id: str, exponent: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one update, in slots, and a message for each part that has too few rows."""
    found, short = list[dict[str, Any]](), list[str]()
    for part in todo:
        # If two rules share an update, each has its own salt: with the same salt, the rows that the first rule left would
        # not be a fair sample for the second.
        salt = f"{pass_id}/{part.update}/" if part.alone else f"{pass_id}/{part.update}/{part.rule}/"
        taken = pa.table({"trajectory_id": pa.array([row["trajectory_id"] for row in found], pa.string())})
        connection.register("taken", taken)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW chances AS SELECT * FROM chances_{part.rule}")
        drawn = db.rows(connection, "pick", salt=salt, n_draws=part.n_draws, youngest=part.youngest)
        if part.n_draws != EVERYTHING and len(drawn) < part.n_draws:
            there = db.rows(connection, "can_be_picked", youngest=part.youngest)["n_rows"][0].as_py()
            if there < part.n_draws:
                short.append(
                    f"update {part.update + 1} asks for {part.n_draws:,} rows of {part.rule} and {there:,} can be drawn"
                )
        weights = importance(drawn["chance"].to_pylist(), exponent)
        found += [
            {
                "update": part.update,
                "slot": slot,
                "trajectory_id": name,
                "source": part.source,
                "weight": weight,
                "rule": part.rule,
            }
            for slot, (name, weight) in enumerate(
                zip(drawn["trajectory_id"].to_pylist(), weights, strict=True), start=len(found)
            )
        ]
    return found, short


def importance(chances: Sequence[float], exponent: float) -> list[float]:
    """Weights that remove a part of a rule's bias from the loss: chance^-exponent, scaled to a mean of 1.

    With exponent 1 the weighted mean over the draws estimates the plain mean over all rows the rule draws from.
    """
    least = min(chances, default=1.0)
    raw = [(least / chance) ** exponent for chance in chances]  # at most 1, even for a very small chance
    mean = math.fsum(raw) / max(1, len(raw))
    return [value / mean for value in raw]


def _tell(short: Sequence[str], if_short: str, where: str) -> None:
    """Logs what happens to updates that have too few rows.

    Raises:
        UserError: the recipe says to stop.
    """
    first = short[0] + (f" ({len(short) - 1} more are short too)" if len(short) > 1 else "")
    if if_short == "refuse":
        raise UserError(
            f"{where}: {first}; --set replay.if_short=smaller makes smaller updates of them, "
            "or make replay.batch_trajectories smaller"
        )
    becomes = "it is smaller" if if_short == "smaller" else "it waits for more, and is left out"
    log.info("%s: %s; %s (replay.if_short)", where, first, becomes)
