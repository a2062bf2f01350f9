"""`reval lineage` of a trained archive, and of long and unusual lines of policies."""

import re

import pytest

from pipeline.archive.store import Store
from pipeline.query import db, lineage
from pipeline.query import states as versions
from tests.helpers.archives import draws, plant
from tests.helpers.command import invoke, refused


def tree(policy_id: str, *words: str) -> list[str]:
    """The command's output, line by line, without the lines of the tree."""
    return [re.sub(r"^[│├└─ ]*", "", line) for line in invoke("lineage", policy_id, *words).stdout.splitlines()]


def ask(store: Store, statement: str) -> list[dict]:
    return db.ask(store, statement).read_all().to_pylist()


def test_a_retraining(trained, archive) -> None:
    """Its parent is the base policy; it draws from all 48 rollouts of the state after the first iteration."""
    store, where = Store(archive), ("-a", str(archive))
    versions.tag(store, trained.first, "good")
    base = ask(store, "SELECT base_policy_id FROM runs WHERE run_id = 'again'")[0]["base_policy_id"]
    last = f"{base}: base policy, 433,792 parameters, {trained.settings['policy.base']}"
    assert tree("again-0001", *where) == [
        "again-0001: reval, beta 1.0, 3 updates, 120 draws",
        f"from snapshot {trained.first} (iteration, arithmetic/1; labelled good)",
        f"reference {base}",
        "48 rollouts of arithmetic, iteration 1, by 1 policy",
        "0 fresh, 120 replayed; by rule: fifo 120",
        f"parent {last}",
    ]
    assert tree(base, *where) == [last]


def test_every_step_says_what_the_rows_say(trained) -> None:
    store = Store(trained.archive)
    steps = lineage.lineage(store, "arithmetic-0002")
    ancestors = ask(store, "SELECT ancestor_id FROM lineage WHERE policy_id = 'arithmetic-0002' ORDER BY depth")
    assert [[policy.policy_id for policy in step.policies] for step in steps] == [[a["ancestor_id"]] for a in ancestors]
    assert len(steps) == 3
    for step in steps[:2]:
        (policy,), (rollouts,) = step.policies, step.rollouts
        counts = "count(*) AS n, count(DISTINCT trajectory_id) AS n_rollouts, count(DISTINCT policy_id) AS n_policies"
        (saw,) = ask(store, f"SELECT {counts} FROM update_rows WHERE pass_id = '{policy.pass_id}'")
        assert policy.n_draws == saw["n"] == sum(rule.n_draws for rule in step.rules)
        assert (rollouts.n_rollouts, rollouts.n_policies) == (saw["n_rollouts"], saw["n_policies"])
        rules = f"SELECT source, rule, count(*) AS n_draws FROM draws WHERE pass_id = '{policy.pass_id}' GROUP BY ALL"
        assert {*step.rules} == {lineage.RuleDraws(**row) for row in ask(store, rules)}
    assert (steps[2].rollouts, steps[2].rules) == ((), ())


def test_as_it_was(trained, archive) -> None:
    where = ("--at", trained.first, "-a", str(archive))
    assert len(tree("arithmetic-0001", *where)) == 6
    line = refused("lineage", "arithmetic-0002", *where)
    assert line.endswith(f"'arithmetic-0002' is not in {archive} at {trained.first}; did you mean 'arithmetic-0001'?")


def test_mistakes_are_one_line(trained) -> None:
    where = ("-a", str(trained.archive))
    assert refused("lineage", "again-001", *where).endswith("did you mean 'again-0001'?")
    assert refused("lineage", "zzz", *where).endswith('`reval sql "SELECT policy_id FROM policies"` lists those that are')
    assert "snapshot 'nope'" in refused("lineage", "again-0001", "--at", "nope", *where)


# How many passes of `long`, and where `again` begins.
LONG, BRANCH = 650, 600


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Store:
    """`long` from a base policy that is known by name only, `again` from within it, and policies from elsewhere.

    A pass of `long` draws its iteration's one rollout and the one before; a pass of `again`, nine of seven files.
    """
    store = Store.create(tmp_path_factory.mktemp("lineage") / "archive")
    line = [("long", i) for i in range(1, LONG + 1)] + [("again", i) for i in range(1, 4)]
    name = {(run, i): f"{run}-{i:04}" for run, i in line} | {("long", 0): "base", ("again", 0): f"long-{BRANCH:04}"}
    policies, passes = [], []
    for run, i in line:
        names = {"policy_id": name[run, i], "pass_id": name[run, i], "run_id": run, "iteration": i}
        policies.append({**names, "parent_id": name[run, i - 1]})
        how = {"objective": "reval", "reference_id": name[run, i - 1]}
        amount = {"n_updates": 1, "n_draws": 2 if run == "long" else 9, "snapshot_id": f"s{i if run == 'long' else LONG}"}
        passes.append({**names, **how, **amount, "parent_id": name[run, i - 1]})
    elsewhere = [
        {"policy_id": "evil", "location": "/x\x1b[31m[red]\n\u202ey", "n_parameters": 5},
        {"policy_id": "egg", "parent_id": "hen", "pass_id": "egg"},
        {"policy_id": "hen", "parent_id": "egg", "pass_id": "hen"},
        {"policy_id": "orphan", "parent_id": "nobody", "pass_id": "orphan"},
    ]
    plant(store, "runs", *({"run_id": run, "config": '{"train": {"beta": 0.5}}'} for run in ("long", "again")))
    plant(store, "policies", {"policy_id": "base"}, *policies, *elsewhere)
    plant(store, "passes", *passes)
    made = [(f"t{i}", "long", i, name["long", i - 1]) for i in range(1, LONG + 1)]
    made += [(f"f{n}", f"file-{max(0, n - 2)}", 0, "theirs") for n in range(9)]  # three of file-0, one each of the others
    columns = ("trajectory_id", "run_id", "iteration", "policy_id")
    plant(store, "trajectories", *(dict(zip(columns, row, strict=True)) for row in made))
    own = [
        row
        for i in range(1, LONG + 1)
        for row in draws(name["long", i], 0, (f"t{i}", "fresh", 0, 1, 0), (f"t{max(1, i - 1)}", "replay", 1, 1, 0))
    ]
    theirs = [(f"f{n}", "replay", 0, 1, 0) for n in range(9)]
    plant(store, "draws", *own, *(row for i in (1, 2, 3) for row in draws(name["again", i], 0, *theirs)))
    stages = ({"snapshot_id": f"s{i}", "stage": "score", "run_id": "long", "iteration": i} for i in range(2, LONG + 1))
    plant(store, "snapshots", *stages)  # the first is gone
    plant(store, "labels", *({"label": label, "snapshot_id": f"s{LONG}"} for label in "ab"))
    return store


def test_a_long_line_is_short(planted) -> None:
    """Two policies, the rest of their run, the newest of the run before, and the rest of that."""
    found = tree("again-0003", "-a", planted.layout.root)
    drew = ["3 rollouts of file-0, iteration 0, by 1 policy"]
    drew += [f"1 rollout of file-{n}, iteration 0, by 1 policy" for n in range(1, 5)]
    drew += ["2 rollouts of 2 more runs", "0 fresh, 9 replayed; by rule: fifo 9"]
    pinned = f"from snapshot s{LONG} (score, long/{LONG}; labelled a, b)"
    assert found == [
        *("again-0003: reval, beta 0.5, 1 update, 9 draws", pinned, "reference again-0002", *drew),
        *("parent again-0002: reval, beta 0.5, 1 update, 9 draws", pinned, "reference again-0001", *drew),
        *("parent again-0001: reval, beta 0.5, 1 update, 9 draws", pinned, "reference long-0600", *drew),
        "parent long-0600: reval, beta 0.5, 1 update, 2 draws",
        "from snapshot s600 (score, long/600)",
        "reference long-0599",
        "2 rollouts of long, iterations 599 to 600, by 2 policies",
        "1 fresh, 1 replayed; by rule: fifo 2",
        "parent long-0001 … long-0599: 599 passes, reval, beta 0.5, 599 updates, 1,198 draws",
        "from 599 snapshots, s1 (not in this archive) … s599 (score, long/599)",
        "599 references, base … long-0598",
        "599 rollouts of long, iterations 1 to 599, by 599 policies",
        "599 fresh, 599 replayed; by rule: fifo 1,198",
        "parent base: base policy, known by name only",
    ]
    assert len(tree("long-0650", "-a", planted.layout.root)) == 16


def test_elsewhere(planted) -> None:
    """Text of others stays text, and lines that lead nowhere end."""
    where = ("-a", planted.layout.root)
    assert invoke("lineage", "evil", *where).stdout == r"evil: base policy, 5 parameters, /x\x1b[31m[red]\n\u202ey" + "\n"
    assert tree("orphan", *where) == [
        "orphan: its pass is not in this archive",
        "parent nobody: not in this archive",
    ]
    assert tree("egg", *where)[-1].endswith("the parents go in a circle")


def test_nothing_is_cut_or_coloured_in_a_pipe(planted, monkeypatch) -> None:
    """The output of the command, also if a terminal is 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = invoke("lineage", "again-0003", "-a", planted.layout.root).stdout
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) > 80
