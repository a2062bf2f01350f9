"""train.reference = behaviour: the reference of a row is always the policy that generated it."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.runs.loop import end
from pipeline.upkeep.repeat import repeat
from tests.helpers.archives import SUMS, edit, run_iteration
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run


@pytest.fixture(scope="module")
def own(tmp_path_factory, trained, children) -> SimpleNamespace:
    """An archive of three iterations; each row has its own reference; two updates on the fresh batch, then replay."""
    archive = tmp_path_factory.mktemp("own") / "archive"
    settings = {**trained.settings, "train.reference": "behaviour", "replay.updates_per_iteration": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
        for name, child in children.items():
            patch.setattr(f"pipeline.runs.processes.Processes.{name}", child)
        with open_run("iterate", recipes.load("arithmetic", settings, iterations=3), archive, name="own") as run:
            for i in (1, 2, 3):
                run_iteration(run, i)
                end(run, i)
    return SimpleNamespace(archive=archive, store=Store(archive), settings=settings)


def rows(store: Store, statement: str) -> list[dict]:
    return db.connect(store).sql(statement).to_arrow_table().to_pylist()


def test_every_rollout_is_referred_once_to_the_policy_that_made_it(own) -> None:
    found = rows(
        own.store,
        "SELECT count(*) AS n, count(DISTINCT trajectory_id) AS n_rollouts, bool_and(f.reference_id = t.policy_id) AS own, "
        "bool_and(f.pass_id = format('own-{:04d}', t.iteration)) AS at_once FROM \"references\" f "
        "JOIN trajectories t USING (trajectory_id)",
    )
    (n_made,) = rows(own.store, "SELECT count(*) AS n FROM trajectories")
    assert found == [{"n": n_made["n"], "n_rollouts": n_made["n"], "own": True, "at_once": True}]
    assert rows(own.store, "SELECT DISTINCT reference_id FROM passes") == [{"reference_id": None}]


def test_a_row_is_calibrated_when_it_is_new_and_keeps_what_the_policy_has_left_of_it(own) -> None:
    """For a new row δ = -target. Later the log-ratio is the change by training since the row was generated: at the first
    update of the next pass, its log-prob under the policy at that time minus its log-prob under its own policy."""
    first = rows(
        own.store,
        "SELECT max(abs(u.residual + u.target)) AS off, max(abs(u.value_gap)) AS value_gap FROM updates u "
        "WHERE u.update = 0",
    )[0]
    assert first["off"] < 1e-3
    assert first["value_gap"] < 1e-3
    old = rows(
        own.store,
        "SELECT u.log_ratio, d.age_iterations AS age FROM updates u JOIN draws d USING (pass_id, update, slot) "
        "WHERE u.update > 0 AND d.age_iterations > 0",
    )
    assert old
    assert math.fsum(abs(row["log_ratio"]) for row in old) / len(old) > 10 * first["off"]
    # The engine's log-probs of its own rollout equal the reference's: it is the same policy.
    gap = rows(
        own.store,
        'SELECT max(abs(f.ref_logprob_sum - t.behaviour_logprob_sum)) AS gap FROM "references" f JOIN trajectories t '
        "USING (trajectory_id)",
    )[0]["gap"]
    assert gap < 1e-2


@pytest.mark.usefixtures("warm")
def test_it_is_whole_repeats_and_says_what_it_stands_on(own, tmp_path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(own.archive, archive)
    assert "whole" in invoke("check", "-a", str(archive)).stdout
    found = repeat(Store(archive), "own-0003")
    assert found.equal
    assert "reference of each rollout its own policy" in invoke("lineage", "own-0003", "-a", str(archive)).stdout
    edit(Store(archive), "references", lambda table: table.slice(5))
    invoke("check", "--repair", "-a", str(archive))
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    said = refused(
        *("iterate", "-a", str(tmp_path / "archive"), "-s", "train.lora_rank=4"),
        *("-s", "train.reset_every_iterations=0", "-s", "train.reference=behaviour"),
    )
    assert "train.reference=reset" in said
