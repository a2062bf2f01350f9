"""Rollouts of another archive: all come in once and unchanged, and existing rows do not change."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.exchange import join
from pipeline.exchange.import_prompts import import_prompts
from pipeline.exchange.import_rollouts import import_rollouts
from pipeline.exchange.join import bring_archive, bring_archives
from pipeline.query import db
from pipeline.runs.loop import end
from pipeline.stages import draw as replay
from pipeline.stages import evaluate
from pipeline.upkeep import check
from pipeline.upkeep.compaction import compact
from pipeline.upkeep.repeat import repeat
from schemas import TABLES, UserError
from schemas.enums import Split
from tests.helpers.archives import SUMS, edit, random_model, run_iteration, run_pass
from tests.helpers.command import QUICK
from tests.helpers.files import lines
from tests.helpers.runs import open_run

BROUGHT = ("prompts", "policies", "trajectories", "responses", "verdicts")
# All of a rollout except its own name and its policy's.
ROLLOUTS = """
    SELECT p.problem, p.gold_answer, p.source, p.split, m.weights_digest, t.iteration, t.sample_index, t.temperature,
        t.max_response_tokens, t.seed, t.engine, t.engine_version, t.finish_reason, t.n_prompt_tokens, t.n_response_tokens,
        t.behaviour_logprob_sum, t.tokenised_by, coalesce(t.tokenizer_digest, m.tokenizer_digest) AS tokenizer_digest,
        r.response_text, r.prompt_token_ids, r.response_token_ids, r.behaviour_logprobs,
        (SELECT list((verifier_id, verdict, reward, extracted_answer, seconds) ORDER BY verifier_id) FROM verdicts v
            WHERE v.trajectory_id = t.trajectory_id) AS judgements
    FROM trajectories t JOIN responses r USING (trajectory_id) JOIN prompts p USING (prompt_id)
    JOIN policies m ON m.policy_id = t.policy_id
"""


def ask(store: Store, statement: str) -> list[tuple]:
    return db.connect(store).execute(statement).fetchall()


def rollouts(store: Store, where: str = "true") -> list[str]:
    return sorted(map(repr, ask(store, f"{ROLLOUTS} WHERE {where}")))


def contents(store: Store, *names: str) -> dict[str, list[tuple]]:
    """All rows of tables, except the times of imports."""
    found = {}
    for name in names:
        listed = ", ".join(f'"{c.name}"' for c in TABLES[name].columns if c.name != "created_at")
        found[name] = sorted(ask(store, f'SELECT {listed} FROM "{name}"'), key=repr)
    return found


def whole(store: Store) -> None:
    assert [str(finding) for finding in check.check(store)] == []


def go_on(archive: Path, settings: dict[str, Any], iterations: tuple[int, ...]) -> None:
    """Does iterations of the run `arithmetic`; begins the run if it does not exist."""
    with open_run("iterate", recipes.load("arithmetic", settings, iterations=iterations[-1]), archive) as run:
        evaluate.evaluate(run, 0)
        for i in iterations:
            run_iteration(run, i)
            end(run, i)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every archive gets the same questions as `trained`."""
    monkeypatch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, children: dict[str, Callable[..., Any]]) -> SimpleNamespace:
    """The archive of another person, who ran the same thing with another model. Tests only read it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    settings = {**QUICK, "policy.base": str(random_model(folder / "base", 7))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
        for name, child in children.items():
            patch.setattr(f"pipeline.runs.processes.Processes.{name}", child)
        go_on(folder / "theirs", settings, (1, 2))
    return SimpleNamespace(archive=folder / "theirs", settings=settings)


def test_all_of_it_comes_as_it_was_and_once(archive, elsewhere) -> None:
    store, other = Store(archive), Store(elsewhere.archive)
    own, theirs = rollouts(store), rollouts(other)
    before = contents(store, *TABLES)
    found = bring_archive(store, other, None)
    assert (found.n_added, found.n_known, found.already) == (96, 0, False)
    assert found.import_id.startswith("theirs-")
    assert rollouts(store) == sorted([*own, *theirs])
    assert rollouts(store, "t.import_id IS NOT NULL") == theirs
    after = contents(store, *TABLES)
    for name in TABLES:
        assert set(map(repr, before[name])) <= set(map(repr, after[name])), f"{name}: a row changed"
        comes = {*BROUGHT, "imports", "snapshots"} - {"prompts"}  # both were given the same questions
        assert (len(after[name]) > len(before[name])) == (name in comes), name
    assert ask(store, "SELECT DISTINCT run_id, import_id FROM trajectories WHERE import_id IS NOT NULL") == [
        (found.import_id,) * 2
    ]
    assert ask(store, "SELECT kind, file, n_added, n_known, n_rejected FROM imports") == [
        ("archive", str(elsewhere.archive), 96, 0, 0)
    ]
    assert ask(store, "SELECT stage FROM snapshots ORDER BY created_at DESC LIMIT 1") == [("import",)]
    whole(store)
    again = bring_archive(Store(archive), other, None)
    assert (again.import_id, again.n_added, again.already) == (found.import_id, 96, True)
    assert contents(store, *TABLES) == after


def test_policies_of_the_same_name_are_told_apart(archive, elsewhere) -> None:
    """Both archives have an arithmetic-0001; here the other's has its weights' digest in its name, and no weights."""
    store, other = Store(archive), Store(elsewhere.archive)
    bring_archive(store, other, None)
    named = "SELECT policy_id, weights_digest FROM policies"
    ours, theirs = dict(ask(Store(archive), named)), dict(ask(other, named))
    assert ours["arithmetic-0001"] != theirs["arithmetic-0001"]
    assert ours[f"arithmetic-0001.{theirs['arithmetic-0001'][:8]}"] == theirs["arithmetic-0001"]
    made = "SELECT iteration, policy_id, count(*) FROM trajectories WHERE import_id IS NOT NULL GROUP BY ALL ORDER BY 1"
    base = next(policy_id for policy_id in theirs if policy_id.startswith("base"))
    assert ask(store, made) == [
        (1, f"{base}.{theirs[base][:8]}", 48),
        (2, f"arithmetic-0001.{theirs['arithmetic-0001'][:8]}", 48),
    ]
    assert ask(
        store, "SELECT DISTINCT location, parent_id, run_id, iteration, pass_id FROM policies WHERE policy_id LIKE '%.%'"
    ) == [(None,) * 5]
    tokenizer = ask(other, "SELECT DISTINCT tokenizer_digest FROM policies")
    assert ask(store, "SELECT DISTINCT tokenizer_digest FROM trajectories WHERE import_id IS NOT NULL") == tokenizer


def test_copies_and_compacted_archives_add_nothing(archive, elsewhere, trained, tmp_path) -> None:
    store = Store(archive)
    assert bring_archive(store, Store(trained.archive), None).n_known == 96  # what it is itself a copy of
    first = bring_archive(store, Store(elsewhere.archive), None)
    before = contents(store, *BROUGHT)
    copy = Store(shutil.copytree(elsewhere.archive, tmp_path / "renamed"))
    list(compact(copy))
    again = bring_archive(store, copy, None)
    assert (again.already, again.import_id) == (True, first.import_id)
    assert contents(store, *BROUGHT) == before


@pytest.mark.usefixtures("warm", "few")
def test_a_copy_that_went_on_brings_what_is_new_and_its_original_can_go_on_too(trained, archive, tmp_path) -> None:
    """With this engine the original's third iteration equals the copy's. It is still made, and no key is there twice."""
    store, other = Store(archive), Store(shutil.copytree(archive, tmp_path / "copy"))
    go_on(tmp_path / "copy", trained.settings, (3,))
    found = bring_archive(store, other, None)
    assert (found.n_added, found.n_known) == (48, 96)
    assert rollouts(store) == rollouts(other)
    whole(store)
    go_on(archive, trained.settings, (3,))
    assert (archive / "weights" / "arithmetic-0003").is_dir()
    whole(store)
    before = contents(store, *BROUGHT)
    assert bring_archive(store, other, None).already
    go_on(tmp_path / "copy", trained.settings, (4,))
    assert bring_archive(store, other, None).n_added == 48
    assert len(ask(store, "SELECT 1 FROM trajectories")) == len(before["trajectories"]) + 48
    whole(store)


@pytest.mark.usefixtures("warm", "few")
def test_an_archive_that_began_with_them_can_begin_runs_of_its_own(elsewhere, trained, tmp_path) -> None:
    store, other = Store.create(tmp_path / "new"), Store(elsewhere.archive)
    bring_archive(store, other, None)
    assert rollouts(store) == rollouts(other)
    go_on(tmp_path / "new", elsewhere.settings, (1,))  # the same questions, base policy and run
    whole(store)
    assert ask(store, "SELECT count(*), count(DISTINCT problem) FROM prompts") == [(450, 450)]


def test_whose_rollouts_come_first_makes_no_difference(archive, elsewhere, tmp_path) -> None:
    """Archives that contain each other's rollouts can be imported in any order, and no row is there twice."""
    a, b = Store(archive), Store(elsewhere.archive)
    bring_archive(a, b, None)
    expected = rollouts(a)
    for name, order in (("ab", (a, b)), ("ba", (b, a))):
        c = Store.create(tmp_path / name)
        added = [bring_archive(c, other, None).n_added for other in order]
        assert sum(added) == 192, name
        assert rollouts(c) == expected, name
        whole(c)
    back = Store(shutil.copytree(elsewhere.archive, tmp_path / "back"))
    assert bring_archive(back, a, None).n_added == 96
    assert rollouts(back) == expected


def test_a_pinned_state_is_what_comes(archive, trained, elsewhere) -> None:
    store = Store(shutil.copytree(elsewhere.archive, archive.parent / "here"))
    found = bring_archive(store, Store(archive), trained.first)
    assert (found.n_added, bring_archive(store, Store(archive), trained.first).already) == (48, True)
    now = bring_archive(store, Store(archive), None)
    assert (now.n_added, now.n_known) == (48, 48)
    whole(store)


def test_where_it_is_killed_makes_no_difference(elsewhere, tmp_path, monkeypatch) -> None:
    """Killed before each commit in turn, also between two of a shard, and run again: the same rows as without a kill."""
    monkeypatch.setattr(join, "SHARD_ROWS", 40)
    empty, other = tmp_path / "empty", Store(elsewhere.archive)
    Store.create(empty)
    untouched = Store(shutil.copytree(empty, tmp_path / "untouched"))
    expected = bring_archive(untouched, other, None)
    rows = contents(untouched, *BROUGHT, "imports")
    real = Store.append
    for n in range(1_000):
        made = []

        def dying(*args, made=made, n=n):
            if len(made) == n:
                raise KeyboardInterrupt
            made.append(1)
            return real(*args)

        monkeypatch.setattr(Store, "append", dying)
        here = Store(shutil.copytree(empty, tmp_path / str(n)))
        try:
            bring_archive(here, other, None)
        except KeyboardInterrupt:
            monkeypatch.setattr(Store, "append", real)
            assert bring_archive(here, other, None) in (expected, replace(expected, already=True))
            assert contents(here, *BROUGHT, "imports") == rows, n
            assert len(ask(here, "SELECT snapshot_id FROM snapshots")) == 1
            whole(here)
        else:
            break
    # Policies, prompts, three shards of rollouts, the import and its snapshot.
    assert n == 1 + 1 + 3 * 3 + 1 + 1


def test_killed_while_the_other_grows_or_is_copied(archive, trained, elsewhere, tmp_path, monkeypatch) -> None:
    """A half committed shard of a killed import is finished first; the import keeps its id, whatever comes between."""
    monkeypatch.setattr(join, "SHARD_ROWS", 30)
    here = shutil.copytree(elsewhere.archive, tmp_path / "here")
    copy = shutil.copytree(archive, tmp_path / "another")
    real, made = Store.append, []

    def dying(self, name, *rest):
        made.extend([name] if name == "trajectories" else [])
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(self, name, *rest)

    monkeypatch.setattr(Store, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        bring_archive(Store(here), Store(archive), trained.first)
    monkeypatch.setattr(Store, "append", real)
    came = "FROM {} WHERE trajectory_id IN (SELECT trajectory_id FROM {})"
    assert ask(Store(here), f"SELECT count(*) {came.format('responses', 'trajectories')}") == [(96 + 30,)]
    assert ask(Store(here), "SELECT count(*) FROM responses") == [(96 + 48,)]
    assert ask(Store(here), "SELECT import_id FROM imports") == []
    found = bring_archive(Store(here), Store(copy), None)
    assert (found.n_added, found.n_known) == (48, 48)
    last = bring_archive(Store(here), Store(archive), None)
    assert (last.n_added, last.n_known, last.already) == (48, 48, False)
    assert rollouts(Store(here)) == sorted([*rollouts(Store(archive)), *rollouts(Store(elsewhere.archive))])
    whole(Store(here))
    assert bring_archive(Store(here), Store(archive), trained.first).n_known == 48
    whole(Store(here))


def test_a_problem_held_out_here_does_not_become_one_to_train_on(tmp_path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    import_prompts(a, lines(tmp_path / "exam.jsonl", {"problem": "1+1", "answer": "2"}), split=Split.HELDOUT)
    import_prompts(a, lines(tmp_path / "book.jsonl", {"problem": "2+2", "answer": "4"}), split=Split.HELDOUT)
    import_prompts(a, lines(tmp_path / "mine.jsonl", {"problem": "3+3", "answer": "6"}), split=Split.TRAIN)
    said = [("1+1", "2"), ("2+2", "four"), ("3+3", "six"), ("4+4", "8")]
    rows = [{"problem": p, "answer": g, "policy": "m", "response": "x", "is_correct": True} for p, g in said]
    import_rollouts(b, lines(tmp_path / "book2.jsonl", *rows[:2]), source="book", split=Split.TRAIN)
    import_rollouts(b, lines(tmp_path / "mine2.jsonl", *rows[2:]), source="mine", split=Split.HELDOUT)
    assert bring_archive(Store(a), Store(b), None).n_added == 4
    assert ask(Store(a), "SELECT problem, gold_answer, source, split FROM rollouts ORDER BY 1") == [
        ("1+1", "2", "book", "heldout"),  # another source holds it out
        ("2+2", "four", "book", "heldout"),
        ("3+3", "six", "mine", "train"),  # splits of a source share no problem
        ("4+4", "8", "mine", "heldout"),
    ]
    whole(Store(a))


def test_imported_rollouts_keep_their_ids_and_are_known(tmp_path) -> None:
    """Both imported a file, one of them a longer version. Numbers in the partly known group continue from those here."""
    row = {"prompt": "2+2", "answer": "4", "policy": "m", "response": "4", "is_correct": True}
    a, b = tmp_path / "a", tmp_path / "b"
    import_rollouts(a, lines(tmp_path / "short.jsonl", *[row] * 3), source="sums")
    import_rollouts(b, lines(tmp_path / "long.jsonl", *[row] * 5), source="sums")
    ids = ask(Store(b), "SELECT trajectory_id FROM trajectories ORDER BY 1")
    found = bring_archive(Store(a), Store(b), None)
    assert (found.n_added, found.n_known) == (2, 3)
    assert ask(Store(a), "SELECT trajectory_id FROM trajectories ORDER BY 1") == ids
    whole(Store(a))
    assert import_rollouts(a, tmp_path / "long.jsonl", source="sums").n_added == 0


def test_a_name_without_weights_is_not_a_policy_of_the_same_name(archive, elsewhere, tmp_path) -> None:
    """A policy arithmetic-0001 that is known by name only is not confused with the one that was trained here."""
    row = {"prompt": "2+2", "answer": "4", "policy": "arithmetic-0001", "response": "4", "is_correct": True}
    import_rollouts(tmp_path / "b", lines(tmp_path / "x.jsonl", *[row] * 3))
    store, other = Store(archive), Store(tmp_path / "b")
    bring_archive(store, other, None)
    assert ask(store, "SELECT DISTINCT policy_id FROM trajectories WHERE import_id IS NOT NULL") == [
        ("arithmetic-0001.elsewhere",)
    ]
    for order in ((store, other), (other, store)):
        c = Store.create(tmp_path / f"c{order[0] is store}")
        assert sum(bring_archive(c, each, None).n_added for each in order) == 99
        whole(c)


def test_verdicts_that_came_later_come_too(archive, trained, tmp_path) -> None:
    """Verdicts of another verifier on rollouts in both; but not if an engine made other tokens from the same seed."""
    other = Store(shutil.copytree(archive, tmp_path / "other"))
    unlike = ask(other, "SELECT min(trajectory_id) FROM trajectories")[0][0]

    def longer(rows: pa.Table) -> pa.Table:
        n = pc.add(rows["n_response_tokens"], pc.cast(pc.equal(rows["trajectory_id"], unlike), pa.int64()))
        return rows.set_column(rows.schema.get_field_index("n_response_tokens"), "n_response_tokens", n)

    edit(other, "trajectories", longer)
    verdicts = db.connect(other).sql("SELECT * REPLACE ('late' AS verifier_id) FROM verdicts").to_arrow_table()
    other.write("late", {"verdicts": verdicts})
    found = bring_archive(Store(archive), other, None)
    assert (found.n_added, found.n_known) == (0, 96)
    late = ask(Store(archive), "SELECT trajectory_id FROM verdicts WHERE verifier_id = 'late'")
    assert len(late) == 95
    assert (unlike,) not in late
    whole(Store(archive))


def test_long_rollouts_make_small_shards(archive, elsewhere, monkeypatch) -> None:
    monkeypatch.setattr(join, "SHARD_TOKENS", 100)
    store = Store(archive)
    before = set(store.shards("responses"))
    bring_archive(store, Store(elsewhere.archive), None)
    n_tokens = "SELECT sum(n_prompt_tokens + n_response_tokens) FROM trajectories WHERE import_id IS NOT NULL"
    assert len(set(store.shards("responses")) - before) >= ask(store, n_tokens)[0][0] / 100
    whole(store)


@pytest.mark.usefixtures("warm")
def test_a_retraining_draws_from_all_of_them_and_needs_the_others_no_more(archive, elsewhere, trained, tmp_path) -> None:
    """Like `retrain -a ours -a theirs`: the pass repeats when their archive is gone; retrain.runs can still choose."""
    theirs = shutil.copytree(elsewhere.archive, tmp_path / "theirs")
    for _ in range(2):
        bring_archives(str(archive), [str(theirs)], None, {})
    shutil.rmtree(theirs)
    n = 2 * 96
    how = {**trained.settings, "replay.window_trajectories": "all", "replay.batch_trajectories": n}
    config = recipes.load(
        "arithmetic", {**how, "replay.updates_per_iteration": 1}, iterations=1, defaults=recipes.RETRAIN
    )
    with open_run("retrain", config, archive, name="both") as run:
        run_pass(run, 1)
        end(run, 1)
    counts = dict(
        ask(
            Store(archive),
            "SELECT run_id, count(*) FROM draws JOIN trajectories USING (trajectory_id) "
            "WHERE pass_id = 'both-0001' GROUP BY 1",
        )
    )
    (import_id,) = {run_id for run_id in counts if run_id != "arithmetic"}
    assert counts == {"arithmetic": 96, import_id: 96}
    assert repeat(Store(archive), "both-0001").equal
    whole(Store(archive))
    settings = {**how, "replay.batch_trajectories": 50, "retrain.runs": [import_id]}
    config = recipes.load("arithmetic", settings, iterations=1, defaults=recipes.RETRAIN)
    with open_run("retrain", config, archive, name="theirs") as run:
        replay.draw(run, 1)
    found = ask(
        Store(archive),
        "SELECT DISTINCT run_id FROM draws JOIN trajectories USING (trajectory_id) WHERE pass_id = 'theirs-0001'",
    )
    assert found == [(import_id,)]


def test_mistakes_are_one_line(archive, tmp_path) -> None:
    empty = Store.create(tmp_path / "empty")
    with pytest.raises(UserError, match="named twice"):
        bring_archive(Store(archive), Store(f"{archive}/../archive"), None)
    with pytest.raises(UserError, match="holds no rollouts"):
        bring_archive(Store(archive), empty, None)
    with pytest.raises(UserError, match="nowhere"):
        bring_archive(Store(archive), empty, "nowhere")
    assert ask(Store(archive), "SELECT * FROM imports") == []
