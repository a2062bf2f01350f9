"""Old weights are deleted by the rule, never those that something needs, and the archive records which."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import recipes
from pipeline.archive import weights as weights_
from pipeline.archive.folder import Folder
from pipeline.archive.store import Store
from pipeline.inputs.policies import policy_location
from pipeline.query import db
from pipeline.query.states import tag
from pipeline.recipes.config import Keep, recorded
from pipeline.runs import keep
from pipeline.runs.loop import end, iterations
from pipeline.runs.processes import Processes
from pipeline.runs.run import Run
from pipeline.upkeep import check
from pipeline.upkeep.repeat import repeat
from schemas import UserError
from tests.helpers.archives import edit, run_iteration
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

N = 6
ALL = [f"arithmetic-{i:04d}" for i in range(1, N + 1)]


@pytest.fixture(scope="module")
def six(trained, children, tmp_path_factory) -> Path:
    """The trained archive after six iterations, with all weights kept. Tests copy it."""
    archive = shutil.copytree(trained.archive, tmp_path_factory.mktemp("six") / "archive")
    config = recipes.load("arithmetic", {**trained.settings, "keep.optimizer_states": 0}, iterations=N)
    with pytest.MonkeyPatch.context() as patch:
        for name, child in children.items():
            patch.setattr(f"pipeline.runs.processes.Processes.{name}", child)
        with open_run("iterate", config, archive, name="arithmetic") as run:
            for i in iterations(run):
                run_iteration(run, i)
    return archive


@pytest.fixture
def long(six, tmp_path) -> Path:
    return shutil.copytree(six, tmp_path / "archive")


def the_run(archive: str | Path, rule: Keep, **train: object) -> Run:
    """The recorded run with another rule and, where needed, other settings of training."""
    store = Store(archive)
    row = next(row for row in db.query(store, "runs_recorded").to_pylist() if row["run_id"] == "arithmetic")
    config = recorded("arithmetic", row["config"])
    config = config.model_copy(update={"keep": rule, "train": config.train.model_copy(update=train)})
    return Run("arithmetic", "iterate", config, store, row["base_policy_id"], Processes(config, store))


def numbers(archive: Path) -> tuple[list[int], list[int]]:
    """The iterations of the run whose weights are on disk, and those whose optimizer states are."""
    found = sorted(path.stem for path in (archive / "weights").glob("arithmetic-0*"))
    states = sorted(path.stem for path in (archive / "optimizer").glob("arithmetic-0*"))
    return [int(name[-4:]) for name in found], [int(name[-4:]) for name in states]


RULES = [
    ({}, [1, 2, 3, 4, 5, 6], [5, 6]),
    ({"optimizer_states": 0}, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
    ({"optimizer_states": 1, "policies_every": 2}, [2, 4, 5, 6], [6]),
    ({"optimizer_states": 9, "policies_every": 3}, [3, 5, 6], [1, 2, 3, 4, 5, 6]),
    ({"policies_every": 100}, [5, 6], [5, 6]),
]


@pytest.mark.parametrize(("rule", "weights", "states"), RULES)
def test_the_rule(long, rule, weights, states) -> None:
    before = numbers(long)
    keep.prune(the_run(long, Keep(**rule)))
    assert numbers(long) == (weights, states)
    gone = {*(set(before[0]) - set(weights))}, {*(set(before[1]) - set(states))}
    noted = {f"weights/arithmetic-{i:04d}" for i in gone[0]} | {
        f"optimizer/arithmetic-{i:04d}.safetensors" for i in gone[1]
    }
    assert weights_.pruned(Store(long)) == noted
    assert list(check.check(Store(long))) == []


@pytest.mark.usefixtures("warm")
def test_a_run_prunes_as_it_goes_and_its_settings_stay_the_same(trained, archive, caplog) -> None:
    """One line says what was pruned, at the end of that iteration; the last pass can be repeated."""
    settings = {**trained.settings, "keep.policies_every": 3, "keep.optimizer_states": 1}
    with caplog.at_level("INFO", "reval"), open_run("iterate", recipes.load("arithmetic", settings), archive) as run:
        assert run.run_id == "arithmetic", "begun without these settings, which decide no rows"
        run_iteration(run, 3)
        end(run, 3)
    assert numbers(archive) == ([2, 3], [3])
    (line,) = [record.getMessage() for record in caplog.records if "pruned" in record.getMessage()]
    assert line.startswith(
        "pruned: weights of arithmetic-0001 (keep.policies_every = 3), "
        "optimizer states of arithmetic-0001, arithmetic-0002 (keep.optimizer_states = 1); "
    )
    assert "keep" not in json.loads(run.config.record_json())
    config = recipes.load("arithmetic", trained.settings, iterations=4)
    with open_run("iterate", config, archive, name="arithmetic") as run:
        run_iteration(run, 4)
        end(run, 4)
    assert numbers(archive) == ([2, 3, 4], [3, 4])
    assert repeat(Store(archive), "arithmetic-0004").equal


def test_the_next_reference_stays_until_it_is_none(long, caplog) -> None:
    rule = Keep(policies_every=100, optimizer_states=0)
    with caplog.at_level("INFO", "reval"):
        keep.prune(the_run(long, rule, reset_every_iterations=4))
    assert numbers(long)[0] == [4, 5, 6]
    assert caplog.messages[0] == (
        "arithmetic-0004 stays, against keep.policies_every = 100: it is the reference of the next pass of run arithmetic"
    )
    keep.prune(the_run(long, rule, reset_every_iterations=0))
    assert numbers(long)[0] == [5, 6]


@pytest.mark.usefixtures("warm")
def test_what_a_run_began_from_stays(trained, long) -> None:
    config = recipes.load("arithmetic", trained.settings, iterations=1, defaults=recipes.RETRAIN)
    with open_run("retrain", config, long, name="other", policy_id="arithmetic-0002"):
        pass
    found = keep.pruning(the_run(long, Keep(policies_every=100)))
    assert found.stays == {"arithmetic-0002": "run other began from it"}
    assert list(found.weights) == ["arithmetic-0001", "arithmetic-0003", "arithmetic-0004"]
    keep.prune(the_run(long, Keep(policies_every=100)))
    late = open_run("retrain", config, long, name="late", policy_id="arithmetic-0001")
    with pytest.raises(UserError, match="'arithmetic-0001': its weights were pruned"), late:
        pass


def test_the_newest_in_a_labelled_snapshot_stays(trained, long) -> None:
    """The newest policy in each label's state; by time, if the state itself can no longer be read."""
    store = Store(long)
    tag(store, trained.first, "first")
    third = "SELECT snapshot_id FROM snapshots WHERE run_id = 'arithmetic' AND iteration = 4 AND stage = 'reference'"
    ((snapshot_id,),) = db.connect(store).execute(third).fetchall()
    tag(store, snapshot_id, "third")
    tag(store, "now", "newest")
    stays = {
        "arithmetic-0001": "it is the run's newest in the snapshot labelled first",
        "arithmetic-0003": "it is the run's newest in the snapshot labelled third",
    }
    assert keep.pruning(the_run(long, Keep(policies_every=100))).stays == stays
    invoke("compact", "-a", str(long))
    assert keep.pruning(the_run(long, Keep(policies_every=100))).stays == stays
    invoke("vacuum", "--keep-snapshots", "0", "--yes", "-a", str(long))
    assert "can no longer be read" in refused("sql", "SELECT 1", "--at", "first", "-a", str(long))
    assert keep.pruning(the_run(long, Keep(policies_every=100))).stays == stays


def test_a_folder_of_the_users_is_never_touched(long, tmp_path) -> None:
    mine = shutil.copytree(long / "weights" / ALL[0], tmp_path / "mine")

    def elsewhere(rows: pa.Table) -> pa.Table:
        moved = pc.if_else(pc.equal(rows["policy_id"], ALL[0]), str(mine), rows["location"])
        return rows.set_column(rows.schema.get_field_index("location"), "location", moved)

    edit(Store(long), "policies", elsewhere)
    keep.prune(the_run(long, Keep(policies_every=100, optimizer_states=1)))
    assert numbers(long) == ([1, 5, 6], [1, 6])
    assert (mine / "config.json").exists()
    assert policy_location(Store(long), ALL[0]) == str(mine)


class Killed(Exception):
    pass


@pytest.fixture
def killed(monkeypatch) -> Callable[[int], None]:
    """Kills the process at its n-th note or deletion; a deletion is then begun and not finished."""
    real, left = {name: getattr(Folder, name) for name in ("make", "clear")}, [0]

    def step(name: str) -> Callable[..., object]:
        def inner(self: Folder, path: str, *more: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                if name == "clear" and (files := self.listing(path)):
                    self.remove(min(files))
                raise Killed
            return real[name](self, path, *more)

        return inner

    for name in real:
        monkeypatch.setattr(Folder, name, step(name))
    return lambda n: left.__setitem__(0, n)


def test_killed_at_any_moment_it_is_finished_by_the_next(long, tmp_path, killed) -> None:
    """Four weights and four states, each noted and then deleted: the kept ones are complete at every moment."""
    rule = Keep(policies_every=100)
    for n in range(1, 18):
        archive = shutil.copytree(long, tmp_path / f"killed-{n}")
        killed(n)
        if n < 17:
            with pytest.raises(Killed):
                keep.prune(the_run(archive, rule))
        else:
            keep.prune(the_run(archive, rule))
        killed(0)
        store = Store(archive)
        noted = weights_.pruned(store)
        for name in ALL:
            if f"weights/{name}" in noted:
                with pytest.raises(UserError, match="pruned"):
                    policy_location(store, name)
        # Everything without a note is complete, and at most one deletion was interrupted.
        found = list(check.weights(store, store.versions()))
        assert len(found) == len(weights_.cut_short(store)) <= 1
        keep.prune(the_run(archive, Keep(optimizer_states=0) if n % 2 else rule))
        assert not list(check.weights(store, store.versions()))
        keep.prune(the_run(archive, rule))
        assert numbers(archive) == ([5, 6], [5, 6])
        shutil.rmtree(archive)


def test_what_was_cut_short_is_not_said_to_stay(trained, long, killed) -> None:
    """A label that is set too late does not protect a half deleted policy."""
    killed(2)
    with pytest.raises(Killed):
        keep.prune(the_run(long, Keep(policies_every=100)))
    killed(0)
    tag(Store(long), trained.first, "late")
    found = keep.pruning(the_run(long, Keep(policies_every=100)))
    assert found.stays == {}
    assert "arithmetic-0001" in found.weights


def test_repair_finishes_it(long, killed) -> None:
    killed(2)
    with pytest.raises(Killed):
        keep.prune(the_run(long, Keep(policies_every=100)))
    killed(0)
    said = invoke("check", "-a", str(long), code=1).stdout
    assert "weights/arithmetic-0001: it was pruned, and part of it is left" in said
    assert (
        "weights/arithmetic-0001: pruned, and what was left of it is deleted"
        in invoke("check", "--repair", "-a", str(long)).stdout
    )
    assert numbers(long)[0] == [2, 3, 4, 5, 6]


@pytest.fixture
def pruned(long) -> Path:
    keep.prune(the_run(long, Keep(policies_every=4)))
    assert numbers(long) == ([4, 5, 6], [5, 6])
    return long


GONE = (
    "'arithmetic-0002': its weights were pruned, by keep.policies_every = 4; the nearest that has them is arithmetic-0004"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "arithmetic-0002", "--set", "runtime.engine=transformers"), GONE),
        (("retrain", "--policy", "arithmetic-0002"), GONE),
        (("repeat", "arithmetic-0003"), GONE),
        (
            ("repeat", "arithmetic-0005"),
            "the optimizer state of arithmetic-0004 was pruned, by keep.optimizer_states = 2",
        ),
        (("prune", "--run", "nope"), "run 'nope' is not in"),
        (("prune", "--optimizer-states", "1"), "prune: nothing was deleted; run it again with --yes"),
    ],
)
@pytest.mark.usefixtures("warm")
def test_who_asks_for_what_is_gone_is_told(pruned, words, message) -> None:
    before = numbers(pruned)
    assert message in refused(*words, "-a", str(pruned))
    assert numbers(pruned) == before


@pytest.mark.usefixtures("warm")
def test_repair_says_what_a_pruned_reference_cannot_give_again(pruned) -> None:
    store = Store(pruned)
    for path in store.shards("references"):
        store.replace("references", [path], [])
    said = invoke("check", "--repair", "-a", str(pruned)).stdout
    assert re.search(r"\d+ rows of reference arithmetic-0002 are lost: policy " + GONE, said)
    assert re.search(r"\d+ rows of reference arithmetic-0004: computed again", said)


def test_check_tells_pruned_from_lost(pruned) -> None:
    said = invoke("check", "-a", str(pruned)).stdout
    assert said.splitlines()[-2:] == [
        "7 weights and optimizer states are not there because they were pruned",
        f"{pruned}: whole",
    ]
    shutil.rmtree(pruned / "weights" / "arithmetic-0004")
    said = invoke("check", "-a", str(pruned), code=1).stdout
    assert "arithmetic-0004: its folder" in said
    assert "arithmetic-0001" not in said
    assert "is not there; `reval export --weights`" in refused("retrain", "--policy", ALL[3], "-a", str(pruned))


def test_an_export_takes_the_note_along_and_an_import_brings_weights_back(long, pruned, tmp_path) -> None:
    out = tmp_path / "out"
    said = invoke("export", str(out), "--weights", "-a", str(pruned))
    assert "without the weights of arithmetic-0001, arithmetic-0002, arithmetic-0003: they were pruned" in said.stderr
    copy = tmp_path / "copy"
    invoke("import", str(out), "-a", str(copy))
    assert numbers(copy) == numbers(pruned)
    assert GONE in refused("retrain", "--policy", "arithmetic-0002", "-a", str(copy))
    assert invoke("check", "-a", str(copy)).stdout.endswith("whole\n")


def test_an_import_brings_weights_back(six, long, tmp_path) -> None:
    invoke("export", str(tmp_path / "out"), "--weights", "-a", str(six))
    keep.prune(the_run(long, Keep(policies_every=4)))
    (long / "weights" / "arithmetic-0001").mkdir()
    (long / "weights" / "arithmetic-0001" / "config.json").write_text("left of a pruning that was cut short")
    invoke("import", str(tmp_path / "out"), "-a", str(long))
    assert numbers(long) == numbers(six)
    assert weights_.pruned(Store(long)) == set()
    assert list(check.check(Store(long))) == []


def test_the_command_shows_what_it_then_does(long, trained) -> None:
    tag(Store(long), trained.first, "good")
    words = ("prune", "--policies-every", "3", "--optimizer-states", "1", "-a", str(long))
    done = invoke(*words, code=2)
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"run arithmetic: weights of {ALL[1]}, {ALL[3]} (keep.policies_every = 3), optimizer states of "
        f"{', '.join(ALL[:5])} (keep.optimizer_states = 1); {keep_bytes(long, [2, 4], [1, 2, 3, 4, 5]):,.1f} MB",
        f"{ALL[0]} stays, against keep.policies_every = 3: it is the run's newest in the snapshot labelled good",
        f"5 passes can then not be repeated: {', '.join(ALL[1:])}",
    ]
    assert numbers(long) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    with Store(long).lock("run-arithmetic"):
        assert "prune: run-arithmetic is held by process" in invoke(*words, "--yes", code=2).stderr
    done = invoke(*words, "--yes").stdout.splitlines()
    assert done[:-1] == lines
    assert done[-1] == f"freed {lines[-1].removesuffix(' to free')}"
    assert numbers(long) == ([1, 3, 5, 6], [6])
    again = invoke(*words, "--yes").stdout.splitlines()
    assert again == [lines[1], "0.0 MB to free"]


def keep_bytes(archive: Path, weights: list[int], states: list[int]) -> float:
    files = [path for i in weights for path in (archive / "weights" / f"arithmetic-{i:04d}").iterdir()]
    files += [archive / "optimizer" / f"arithmetic-{i:04d}.safetensors" for i in states]
    return sum(path.stat().st_size for path in files) / 1e6


def test_what_came_to_be_needed_since_it_was_shown_stays(trained, long) -> None:
    store = Store(long)
    shown = keep.prunings(store, None, Keep(policies_every=100))
    assert ALL[0] in next(plan for plan in shown if plan.run.run_id == "arithmetic").weights
    tag(store, trained.first, "good")
    keep.carry_out(store, shown)
    assert numbers(long)[0] == [1, 5, 6]
