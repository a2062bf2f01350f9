"""The real command, with vLLM and a Prefect server: what it makes is complete and fits together."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak import Soak
from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.children.pool import Pool, Result
from pipeline.engines.check import WrongWeights
from pipeline.query import db
from pipeline.runs.loop import end, iterations
from pipeline.stages import draw as replay
from pipeline.stages import evaluate, generate, reference, score, train
from pipeline.stages.order import STAGES
from schemas import TABLES, UserError
from tests.helpers.archives import random_model, run_iteration
from tests.helpers.command import REVAL, SMALL, environment, invoke, refused, reval, settings
from tests.helpers.runs import open_run

UPDATES, DRAWS, FRESH = 3, 40, 12 * 4


def ask(home: Path, statement: str) -> list[tuple]:
    return db.connect(Store(home / "archive")).execute(statement).fetchall()


def test_ids_are_conserved_from_prompt_to_update(home) -> None:
    # Every rollout answers a known training prompt and has its tokens, its verdict, and its place in a whole group.
    assert ask(home, "SELECT count(*), count(DISTINCT trajectory_id) FROM trajectories") == [(2 * FRESH, 2 * FRESH)]
    joined = "FROM trajectories t JOIN prompts p USING (prompt_id) JOIN responses r USING (trajectory_id) JOIN verdicts v USING (trajectory_id)"
    assert ask(home, f"SELECT count(*) {joined} WHERE p.split = 'train'") == [(2 * FRESH,)]
    assert ask(
        home, "SELECT DISTINCT count(*), min(sample_index), max(sample_index) FROM trajectories GROUP BY group_id"
    ) == [(4, 0, 3)]
    # Every draw is of a rollout of this run or an earlier iteration, with its own reward; every update row has its draw.
    bad = "SELECT d.* FROM draws d LEFT JOIN verdicts v USING (trajectory_id) WHERE v.reward IS DISTINCT FROM d.reward"
    assert ask(home, bad) == []
    assert ask(home, "SELECT pass_id, update, slot FROM draws EXCEPT SELECT pass_id, update, slot FROM updates") == []
    assert ask(home, "SELECT pass_id, update, slot FROM updates EXCEPT SELECT pass_id, update, slot FROM draws") == []
    sizes = ask(home, "SELECT pass_id, update, source, count(*) FROM draws GROUP BY ALL ORDER BY ALL")
    assert sizes == [
        (f"arithmetic-{i:04d}", update, source, n)
        for i in (1, 2)
        for update, source, n in ((0, "fresh", FRESH), (1, "replay", DRAWS), (2, "replay", DRAWS))
    ]


def test_ids_are_those_the_trainer_would_make(home) -> None:
    """The archive has the engine's token ids, not ids made again from text; and the text is their decoding."""
    from transformers import AutoTokenizer

    store = Store(home / "archive")
    location = ask(home, "SELECT location FROM policies WHERE parent_id IS NULL")[0][0]
    tokenizer = AutoTokenizer.from_pretrained(store.layout.local / location)
    rows = ask(
        home,
        "SELECT p.problem, r.prompt_token_ids, r.response_token_ids, r.response_text, t.n_prompt_tokens, t.n_response_tokens, "
        "len(r.behaviour_logprobs), t.finish_reason "
        "FROM responses r JOIN trajectories t USING (trajectory_id) JOIN prompts p USING (prompt_id)",
    )
    for problem, prompt_ids, ids, text, n_prompt, n_response, n_logprobs, finish in rows:
        assert tokenizer.decode(prompt_ids) == problem
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (len(prompt_ids), len(ids), len(ids)) == (n_prompt, n_response, n_logprobs)
        assert (finish == "stop") == (ids[-1] == tokenizer.eos_token_id)


def test_first_pass_is_calibrated_through_the_whole_pipeline(home) -> None:
    """At the first update of a pass whose reference is its parent, θ = ref: δ is minus the target, for every row."""
    rows = ask(
        home,
        "SELECT max(abs(u.value_gap)), max(abs(u.log_ratio)), max(abs(u.residual + u.target)), max(abs(u.target)) FROM updates u "
        "JOIN passes p USING (pass_id) WHERE p.iteration = 1 AND u.update = 0",
    )
    value_gap, log_ratio, residual, target = rows[0]
    assert max(value_gap, log_ratio, residual) < 1e-4
    assert target > 0.1
    worked = "SELECT count(*) FROM draws d JOIN updates u USING (pass_id, update, slot) WHERE abs((d.reward - d.baseline) / 1.0 - u.target) > 1e-12"
    assert ask(home, worked) == [(0,)]


def test_baseline_is_the_group_mean(home) -> None:
    rows = ask(
        home,
        "WITH g AS (SELECT t.group_id, avg(v.reward) AS mean FROM trajectories t JOIN verdicts v USING (trajectory_id) GROUP BY 1) "
        "SELECT count(*) FROM draws d JOIN trajectories t USING (trajectory_id) JOIN g USING (group_id) WHERE abs(d.baseline - g.mean) > 1e-12",
    )
    assert rows == [(0,)]


def test_references_are_computed_once_for_what_is_drawn(home) -> None:
    """Resets every 2 iterations: the first two passes stand on the base policy."""
    assert ask(home, "SELECT DISTINCT reference_id = base_policy_id FROM passes JOIN runs USING (run_id)") == [(True,)]
    assert (
        ask(home, 'SELECT count(*), count(DISTINCT trajectory_id) FROM "references"')[0][0]
        == ask(home, "SELECT count(DISTINCT trajectory_id) FROM draws")[0][0]
    )


def test_the_engine_ran_the_policy_it_claims(home) -> None:
    checks = ask(home, "SELECT policy_id, n_tokens, mean_abs_logprob_gap FROM engine_checks ORDER BY iteration")
    assert [row[0] for row in checks][1] == "arithmetic-0001"
    assert all(n > 0 and gap < 1e-4 for _, n, gap in checks)
    assert ask(home, "SELECT DISTINCT engine FROM trajectories") == [("vllm",)]


def test_progress_has_a_row_per_iteration_from_the_base(home) -> None:
    rows = ask(
        home,
        "SELECT iteration, n_fresh, n_replayed, train_reward, heldout_accuracy, seconds_train FROM progress ORDER BY 1",
    )
    assert [row[:3] for row in rows] == [(0, 0, 0), (1, FRESH, 2 * DRAWS), (2, FRESH, 2 * DRAWS)]
    assert all(row[4] is not None for row in rows)
    assert all(row[3] is not None and row[5] > 0 for row in rows[1:])
    stages = ask(home, "SELECT stage, count(*) FROM snapshots WHERE iteration = 2 GROUP BY 1 ORDER BY 1")
    names = ("draw", "evaluate", "generate", "iteration", "reference", "score", "train")
    assert stages == [(stage, 1) for stage in names]


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_unique(home, name) -> None:
    key = ", ".join(f'"{column}"' for column in TABLES[name].key)
    assert ask(home, f'SELECT {key} FROM "{name}" GROUP BY {key} HAVING count(*) > 1') == []


def test_splits_share_no_problem(home) -> None:
    assert ask(home, "SELECT problem FROM prompts GROUP BY problem HAVING count(DISTINCT split) > 1") == []
    assert ask(home, "SELECT count(*) FROM evaluations JOIN prompts USING (prompt_id) WHERE split <> 'heldout'") == [(0,)]


def test_sql_formats(home) -> None:
    import polars as pl

    statement = (
        "SELECT iteration, count(*) AS n, avg(reward) AS reward FROM rollouts GROUP BY iteration ORDER BY iteration"
    )
    where = ("--archive", str(home / "archive"))
    csv = invoke("sql", "--format", "csv", statement, *where).stdout
    assert csv.splitlines()[0] == "iteration,n,reward"
    assert [line.split(",")[:2] for line in csv.splitlines()[1:]] == [["1", str(FRESH)], ["2", str(FRESH)]]
    lines = invoke("sql", "--format", "json", statement, *where).stdout.splitlines()
    assert [json.loads(line)["n"] for line in lines] == [FRESH, FRESH]
    # Into a pipe, as a user would: what is printed is the answer's bytes and nothing else.
    command = [*REVAL, "sql", "--format", "parquet", statement]
    out = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, check=True)
    assert pl.read_parquet(io.BytesIO(out.stdout))["n"].to_list() == [FRESH, FRESH]
    assert str(FRESH) in invoke("sql", statement, *where).stdout
    twice = invoke("sql", "SELECT count(*), count(*) FROM runs", *where).stdout.split()
    assert twice[:2] == ["count_star()"] * 2
    assert twice[2] == twice[3]


def test_status(home) -> None:
    out = invoke("status", "--archive", str(home / "archive")).stdout
    assert "arithmetic-0002" in out
    assert "trajectories" in out


MISTAKES = [
    (("iterate", "--recipe", "arithmetik"), "did you mean arithmetic"),
    (("iterate", "--set", "train.bta=1"), "did you mean train.beta"),
    (("iterate", "--set", "train.beta=-1"), "greater than 0"),
    (("iterate", "--run", "No Good"), "run name"),
    (("iterate", "--set", "policy.base=/nowhere"), "policy.base"),
    (("iterate", "--set", "policy.base=."), "not a model folder"),
    (("iterate", "--set", "score.max_seconds=0"), "greater than 0"),
    (("retrain", "--policy", "nobody"), "policy 'nobody' is not in"),
    (("sql", "--format", "csv", "SELECT versions FROM snapshots"), "--format csv cannot hold"),
    (("evaluate", "nobody"), "policy 'nobody' is not in"),
    (("score", "--run", "nobody"), "no run nobody"),
    (("sql", "SELECT"), "SQL: "),
    (("sql", "DROP VIEW prompts"), "only asks"),
    (("sql", "--at", "nope", "SELECT 1"), "snapshot 'nope'"),
    (("status", "--archive", "missing"), "does not exist"),
    (("retrain", "--archive", "missing"), "does not exist"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_end_with_one_line_and_code_2(home, words, message, monkeypatch) -> None:
    monkeypatch.chdir(home)
    before = Store(home / "archive").versions()
    assert message in refused(*words)
    assert Store(home / "archive").versions() == before
    assert not (home / "missing").exists()


def test_the_command_as_a_process_ends_with_one_line_and_code_2(home) -> None:
    done = reval("iterate", "--recipe", "arithmetik", cwd=home, code=2)
    assert done.stderr.strip().splitlines() == [refused("iterate", "--recipe", "arithmetik")]


@pytest.mark.parametrize(("key", "old", "new"), [("train.beta", 1.0, 0.5), ("prompts.seed", 0, 3), ("policy.seed", 0, 3)])
def test_other_settings_under_the_same_name_are_refused(home, key, old, new, monkeypatch) -> None:
    monkeypatch.chdir(home)
    before = Store(home / "archive").versions()
    said = refused("iterate", "--run", "arithmetic", *settings(**{key: new}))
    assert f"run arithmetic: {key} {old} → {new} since it began; choose another run name" in said
    assert Store(home / "archive").versions() == before, "no questions of the other seed, no other base policy"


def test_port_in_use() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"port {port} cannot be used" in refused("up", "--port", str(port))


@pytest.fixture
def killed(tmp_path) -> Path:
    """A user's folder whose run was killed, with every process of it, as soon as its second iteration had generated.

    It is the plain command, which has a Prefect server of its own.
    """
    command = [*REVAL, "iterate", "--iterations", "2", *settings(**{"runtime.engine": "transformers"})]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.DEVNULL)
    generated = "SELECT count(*) FROM snapshots WHERE iteration = 2 AND stage = 'generate'"
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            if (tmp_path / "archive" / "reval.json").exists() and ask(tmp_path, generated) == [(1,)]:
                break
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        children = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(children) >= 5, "engine, trainer, two verifiers, server"
    while any(alive(pid) for pid in children):  # each sees that its parent is gone, and goes
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return tmp_path


def descendants(pid: int) -> list[int]:
    found = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_and_run_again(killed, warm, tmp_path_factory) -> None:
    """kill -9 in mid-run; the same request continues the same run, loses no committed row and repeats none.

    It continues in this process, without Prefect; finished work is read from the archive. In the end every row of every
    table equals that of an undisturbed run.
    """
    kept = ask(killed, "SELECT trajectory_id FROM trajectories ORDER BY 1")
    config = recipes.load("arithmetic", {**SMALL, "runtime.engine": "transformers"}, iterations=2)

    def go_on(archive: Path) -> int:
        with open_run("iterate", config, archive) as run:
            first = run.next_iteration()
            assert run.run_id == "arithmetic" or first == 1
            evaluate.evaluate(run, 0)
            for i in iterations(run):
                run_iteration(run, i)
                evaluate.evaluate(run, i)
        return first

    assert go_on(killed / "archive") == 2
    assert ask(killed, "SELECT trajectory_id FROM trajectories ORDER BY 1") == kept
    assert ask(killed, "SELECT run_id, max(iteration) FROM progress GROUP BY 1") == [("arithmetic", 2)]
    for name, table in TABLES.items():
        key = ", ".join(f'"{column}"' for column in table.key)
        assert ask(killed, f'SELECT {key} FROM "{name}" GROUP BY {key} HAVING count(*) > 1') == [], name
    # An interrupted iteration has no wall time, so it has no overhead, and never a negative one.
    overheads = dict(ask(killed, "SELECT iteration, seconds_overhead FROM progress WHERE iteration > 0"))
    assert overheads[1] > 0
    assert overheads[2] is None
    calm = tmp_path_factory.mktemp("calm")
    go_on(calm / "archive")
    soak = Soak(tmp_path_factory.mktemp("soak"), 0, 2, [], 0, set())
    (soak.calm / "archive").symlink_to(calm / "archive")
    (soak.storm / "archive").symlink_to(killed / "archive")
    assert all(line.endswith("the same") for line in soak.compare())
    assert soak.problems == []
    with open_run("iterate", config, killed / "archive", name="arithmetic") as run:
        assert run.next_iteration() == 3, "it has its two iterations"


def test_the_embedded_base_policy_is_trained_where_a_recipe_asks_for_it(tmp_path, warm) -> None:
    """Only once: a later run with the same settings begins from it too."""
    archive = ("--archive", str(tmp_path / "archive"), "--set", "policy.target_accuracy=0")
    first, second = (invoke("init", *archive).stdout for _ in range(2))
    assert first == second
    assert "base policy arithmetic-base-" in first
    assert ask(tmp_path, "SELECT parent_id, n_parameters FROM policies") == [(None, 433_792)]


def test_asking_for_more_goes_on_with_the_same_run(tmp_path) -> None:
    """Begun for 1 iteration, asked for 3, stopped at 2: the next call continues it, whatever number it began with."""
    base = str(random_model(tmp_path / "base", 1))
    quick = {**SMALL, "policy.base": base, "runtime.engine": "transformers"}
    for n, iteration in ((1, 1), (3, 2)):
        with open_run("iterate", recipes.load("arithmetic", quick, iterations=n), tmp_path / "archive") as run:
            assert (run.run_id, run.next_iteration()) == ("arithmetic", iteration)
            end(run, iteration)
    with open_run("iterate", recipes.load("arithmetic", quick, iterations=3), tmp_path / "archive") as run:
        assert (run.run_id, run.next_iteration()) == ("arithmetic", 3)
        end(run, 3)
    with open_run("iterate", recipes.load("arithmetic", quick, iterations=3), tmp_path / "archive") as run:
        assert run.run_id == "arithmetic-2"


def test_more_answers_are_added_not_repeated(tmp_path, warm) -> None:
    base = str(random_model(tmp_path / "base", 1))
    key = "policy_id, benchmark, temperature, prompt_id, sample_index"
    for k in (1, 3, 3):
        quick = {**SMALL, "policy.base": base, "runtime.engine": "transformers", "evaluate.samples_per_prompt": k}
        config = recipes.load("arithmetic", quick)
        with open_run("iterate", config, tmp_path / "archive", name=f"k{k}") as run:
            evaluate.evaluate_policy(run.store, config, run.processes, run.base_policy_id)
        n = SMALL["evaluate.max_prompts"]
        assert ask(tmp_path, "SELECT temperature, count(*) FROM evaluations GROUP BY 1 ORDER BY 1") == [
            (0.0, n),
            (1.0, k * n),
        ]
        assert ask(tmp_path, f"SELECT count(DISTINCT ({key})) FROM evaluations") == [((k + 1) * n,)]


def test_a_batch_nobody_judged_is_no_batch(tmp_path, warm, monkeypatch) -> None:
    """If every check of an iteration timed out, its update does not use the rollouts of the iteration before."""
    base = str(random_model(tmp_path / "base", 1))
    quick = {**SMALL, "policy.base": base, "runtime.engine": "transformers"}
    with open_run("iterate", recipes.load("arithmetic", quick), tmp_path / "archive") as run:
        for iteration in (1, 2):
            generate.generate(run, iteration)
            if iteration == 2:

                def late(self: Pool, items: list) -> Iterator[tuple[int, Result]]:
                    yield from ((item, Result({}, "timeout", 5.0)) for item in range(len(items)))

                monkeypatch.setattr(Pool, "map", late)
            score.score(run, iteration)
            if iteration == 1:
                replay.draw(run, iteration)
                reference.reference(run, iteration)
                train.train(run, iteration)
        late_rows = "SELECT count(*), count(reward) FROM verdicts WHERE verdict = 'timeout'"
        assert ask(tmp_path, late_rows) == [(FRESH, 0)]
        with pytest.raises(
            UserError, match="pass arithmetic-0002: there is nothing to train on: no rollout of its iteration was judged"
        ):
            replay.draw(run, 2)


def test_an_engine_with_other_weights_is_found_out(tmp_path, warm) -> None:
    """The base is a user's own policy. The engine then silently keeps older weights: nothing is committed."""
    base, other = (str(random_model(tmp_path / name, seed)) for seed, name in ((1, "base"), (2, "other")))
    config = recipes.load("arithmetic", {**SMALL, "policy.base": base, "runtime.engine": "transformers"})
    with open_run("iterate", config, tmp_path / "archive") as run:
        assert run.base_policy_id.startswith("base-")
        real = run.processes.engine
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.processes, "engine", lambda location: real(other))
            with pytest.raises(WrongWeights, match="it runs other weights"):
                evaluate.evaluate(run, 0)
            with pytest.raises(WrongWeights, match="it runs other weights"):
                generate.generate(run, 1)
        assert ask(tmp_path, "SELECT count(*) FROM evaluations") == [(0,)]
        assert (
            ask(tmp_path, "SELECT count(*) FROM trajectories")
            == ask(tmp_path, "SELECT count(*) FROM responses")
            == [(0,)]
        )
        generate.generate(run, 1)
        assert ask(tmp_path, "SELECT count(*) FROM trajectories") == [(FRESH,)]


def test_retrain_under_prefect_without_vllm(home, served, tmp_path) -> None:
    """Where importing vLLM raises, a new policy comes of archived rollouts, and no new rollout; Prefect shows its tasks."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('no vllm here')")
    env = {**served.env, "PYTHONPATH": os.pathsep.join([str(tmp_path), served.env["PYTHONPATH"]])}
    shutil.copytree(home / "archive", tmp_path / "archive")
    before = ask(tmp_path, "SELECT count(*) FROM trajectories")
    whole = settings(**{"replay.window_trajectories": "all"})  # the flow's default, which the small run's own overrides
    reval("retrain", "--passes", "2", "--run", "again", *whole, cwd=tmp_path, env=env)
    assert ask(tmp_path, "SELECT count(*) FROM trajectories") == before
    assert ask(tmp_path, "SELECT policy_id, parent_id FROM policies WHERE run_id = 'again' ORDER BY 1")[1] == (
        "again-0002",
        "again-0001",
    )
    drawn = ask(
        tmp_path,
        "SELECT source, count(*), count(DISTINCT trajectory_id) FROM draws WHERE pass_id LIKE 'again-%' GROUP BY 1",
    )
    assert drawn[0][:2] == ("replay", 2 * UPDATES * DRAWS)
    assert drawn[0][2] > 72, "the whole archive, not the recipe's window"


def test_what_prefect_shows_and_how_it_stops(home, served) -> None:
    """`reval up` and `prefect deployment run reval/iterate --watch` made `home`; Ctrl-C stops all of it."""
    command = [sys.executable, "-c", SEEN]
    done = subprocess.run(command, cwd=home, env=served.env, capture_output=True, text=True, check=True, timeout=60)
    seen = json.loads(done.stdout)
    assert "0 is less than the minimum of 1" in seen["refused"]
    once = [f"{stage}-{i}" for i in (1, 2) for stage in STAGES]
    assert seen["runs"]["arithmetic"] == sorted(["evaluate-0", *once])
    tasks = [f"{stage}-{i}" for i in (1, 2) for stage in ("draw", "reference", "train")]
    assert seen["runs"].get("again", sorted(tasks)) == sorted(tasks), "the run of the plain command is there too"
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0, served.log.read_text()
    assert "Traceback" not in served.log.read_text()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", served.port))  # the server is gone


# By the flow's parameter `run`: its tasks. And what the server says to a parameter that cannot be one.
SEEN = """
import json
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
with get_client(sync_client=True) as client:
    iterate = client.read_deployment_by_name("reval/iterate")
    try:
        client.create_flow_run_from_deployment(iterate.id, parameters={"iterations": 0})
        refused = "it was not"
    except PrefectHTTPStatusError as error:
        refused = error.response.text
    tasks = client.read_task_runs(limit=200)
    runs = {
        str(run.parameters["run"]): sorted(task.name for task in tasks if task.flow_run_id == run.id)
        for run in client.read_flow_runs()
    }
    print(json.dumps({"refused": refused, "runs": runs}))
"""
