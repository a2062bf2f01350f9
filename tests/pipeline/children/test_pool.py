"""The rules of the pool: no item can hang, crash or delay the others, and each has one result."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.children.pool import MAX_KILLS, MAX_STILLBORN, Pool, Result
from pipeline.children.worker import WorkerDied
from pipeline.stages.score import verdicts
from pipeline.verifiers import verifier
from pipeline.verifiers.reading import MAX_EXTRACTED_CHARACTERS
from schemas import UserError
from tests.helpers.command import environment
from tests.pipeline.verifiers.hostile import CODE, TEXT, share

pytestmark = pytest.mark.slow
SECONDS = 1.0
Made = Callable[..., Pool]


@pytest.fixture
def made(tmp_path) -> Iterator[Made]:
    """Makes pools, and checks that each leaves no process behind."""
    pools, before = [], children()

    def make(n_workers: int = 2, seconds: float = SECONDS, **settings: Any) -> Pool:
        pools.append(
            Pool("tests.pipeline.children.pool_worker", n_workers, seconds, tmp_path / f"{len(pools)}.log", **settings)
        )
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert children() <= before


def children() -> set[int]:
    """The child processes of this one that still exist, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, rest = stat.read_text().split(" ", 1)
            if int(rest.rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.add(int(pid))
    return found


def results(pool: Pool, items: list[tuple[Any, ...]]) -> list[Result]:
    """The results in the order of the items; each item has one."""
    found = list(pool.map(items))
    assert sorted(i for i, _ in found) == list(range(len(items)))
    return [result for _, result in sorted(found, key=lambda pair: pair[0])]


def said(pool: Pool, items: list[tuple[Any, ...]]) -> list[Any]:
    """The answer to each item, or the reason why there is none."""
    return [result.failure or result.values["said"] for result in results(pool, items)]


def works(pool: Pool) -> bool:
    return said(pool, [("echo", i) for i in range(50)]) == list(range(50))


# Every command with a result that depends only on itself, and that result.
MIXED: list[tuple[tuple[Any, ...], Any]] = [
    *[(("echo", i), i) for i in range(200)],
    (("hang",), "timeout"),
    (("sleep", 60), "timeout"),
    (("sleep", 0.3, "late"), "late"),
    (("exit", 3), "crashed"),
    (("exit", 0), "crashed"),
    (("leave", 1), "crashed"),
    (("signal", "SIGSEGV"), "crashed"),
    (("signal", "SIGTERM"), "crashed"),
    (("raise", "no"), "crashed"),
    (("raise", "\ud800\x00"), "crashed"),
    (("unsayable",), "crashed"),
    (("no such command",), "crashed"),
    (("shout", 1_000_000), "said"),
    (("large", 5_000_000), "x" * 5_000_000),
    (("length", "x" * 5_000_000), 5_000_000),
    (("echo", '\ud800 \x00 \n \u2028 💥 "\\'), '\ud800 \x00 \n \u2028 💥 "\\'),
    (("echo", None), None),
]


@pytest.mark.parametrize(("n_workers", "n_maps"), [(1, 1), (2, 3), (3, 1)])
def test_outcomes_depend_on_nothing_but_the_item(made, n_workers, n_maps) -> None:
    pool, order = made(n_workers), random.Random(n_workers).sample(range(len(MIXED)), len(MIXED))
    found = {}
    for part in (order[i::n_maps] for i in range(n_maps)):
        found.update(zip(part, said(pool, [MIXED[i][0] for i in part]), strict=True))
    assert [found[i] for i in range(len(MIXED))] == [result for _, result in MIXED]
    assert works(pool)


def test_nor_on_who_kills_the_workers(made) -> None:
    """Workers may be killed from outside, each at most once; an item is tried up to four times."""
    pool, over, n_killed, chosen = made(2, 5.0), threading.Event(), 0, random.Random(1)

    def kill() -> None:
        nonlocal n_killed
        while not over.wait(chosen.uniform(0.2, 0.6)):
            ready = [place for place in [*pool._places, *pool._spares] if place.ready]
            if ready:
                n_killed += 1
                with suppress(ProcessLookupError):
                    os.kill(chosen.choice(ready).worker.pid, signal.SIGKILL)

    items = [("sleep", 0.002, i) for i in range(1500)]
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert said(pool, items) == list(range(1500))
    finally:
        over.set()
        killer.join()
    assert n_killed > 3


def test_a_hang_costs_its_deadline_and_nobody_else_anything(made) -> None:
    pool = made(2, 2.0)
    works(pool)  # the start of the workers must not count for an item
    items = [("echo", 0), ("hang",), *[("echo", i) for i in range(2, 300)]]
    found = list(pool.map(items))
    assert found[-1][0] == 1, "all others were there before it"
    assert found[-1][1].failure == "timeout"
    assert 2.0 <= found[-1][1].seconds < 3.0
    assert all(result.failure is None for i, result in found if i != 1)


def test_what_is_behind_a_slow_item_does_not_wait_for_it(made) -> None:
    pool = made(2, 10.0)
    works(pool)
    began, at = time.monotonic(), {}
    for i, result in pool.map([("sleep", 1.5, 0), *[("echo", i) for i in range(1, 100)]]):
        assert result.values == {"said": i}
        at[i] = time.monotonic() - began
    assert max(seconds for i, seconds in at.items() if i) < 1.5 <= at[0]


def test_the_deadline_is_each_items_own(made) -> None:
    """An item's time does not count for the items behind it in a worker's queue."""
    assert said(made(1, 1.0), [("sleep", 0.4, i) for i in range(6)]) == list(range(6))


def test_a_death_from_outside_is_no_fault_of_the_item_but_only_so_often(made, tmp_path) -> None:
    pool = made(1)
    tries = tmp_path / "tries"
    assert said(pool, [("echo", 1), ("signal", "SIGKILL"), ("echo", 2)]) == [1, "crashed", 2]
    for place in pool._places:
        os.kill(place.worker.pid, signal.SIGKILL)
    assert works(pool)
    assert said(pool, [("append", str(tries), "SIGKILL")]) == ["crashed"]
    assert tries.read_text() == "." * (1 + MAX_KILLS)


def test_a_death_of_its_own_is_tried_once(made, tmp_path) -> None:
    tries = tmp_path / "tries"
    assert said(made(1), [("append", str(tries), "SIGSEGV")]) == ["crashed"]
    assert tries.read_text() == "."


def test_what_wanted_too_much_memory_is_no_answer(made) -> None:
    """The handler catches the MemoryError, or just has enough memory, and answers "wrong"."""
    pool = made(2, 10.0)
    assert said(pool, [("swallow",), ("swallow", 1024), ("swallow", 64)]) == ["crashed", "crashed", "wrong"]
    assert said(pool, [("gulp", 3 << 30), ("gulp", 1 << 50), ("gulp", 1 << 26)]) == ["crashed", "crashed", "right"]
    assert works(pool)


@pytest.mark.parametrize("after", [0, 100])
def test_a_worker_that_is_left_fat_is_replaced_and_its_answer_kept(made, after) -> None:
    """Also if the worker has begun the next items before this is noticed."""
    pool = made(1)
    works(pool)
    items = [("pid",), ("keep", 200), *[("echo", i) for i in range(after)], ("pid",)]
    found: dict[int, Any] = {}
    for i, result in pool.map(items):
        time.sleep(0.3 if i == 0 else 0)  # while it goes on
        found[i] = result.values["said"]
    assert found[0] == found[1] != found[len(items) - 1]
    assert [found[i] for i in range(2, 2 + after)] == list(range(after))


def test_many_quick_items_do_not_fatten_a_worker(made) -> None:
    pool = made(1)
    pids = said(pool, [("keep_little", 1)] * 1000)
    assert max(pids.count(pid) for pid in set(pids)) < 500


def test_an_abandoned_map_does_not_confuse_the_next(made) -> None:
    pool = made(2)
    for n in range(1, 200, 19):
        abandoned = pool.map([("echo", -1)] * 500)
        for _ in range(n):
            next(abandoned)
        time.sleep(0.05)  # so that there are answers that nobody asks for
        abandoned.close()
        assert works(pool)
    hanging = pool.map([("echo", 0), ("hang",), ("hang",)])
    next(hanging)
    del hanging
    assert works(pool)


def test_a_map_in_the_midst_of_another_ends_that(made) -> None:
    pool = made(1)
    first = pool.map([("echo", -1)] * 500)
    next(first)
    assert works(pool)
    with pytest.raises(RuntimeError, match="another map"):
        list(first)
    assert works(pool)


def test_whoever_asks_slowly_gets_the_same(made) -> None:
    """A finished result stays, however late it is read; large results are still in the pipe."""
    pool = made(2, 0.5)
    items = [("length", "x" * 5_000_000), ("large", 5_000_000), ("echo", 2), ("length", "x" * 5_000_000)]
    items += [("large", 5_000_000), ("echo", 5), ("large", 5_000_000), ("echo", 7), ("echo", 8)]
    for _, result in pool.map(items):
        assert result.failure is None
        time.sleep(0.8)


def test_what_is_fed_behind_an_item_on_its_way_finds_a_worker_that_reads(made) -> None:
    """The pipe was filled again before the pool saw that the worker had emptied it, and the item was charged for this."""
    pool = made(1, 0.5)
    found = pool.map([("pid",), ("length", "x" * 5_000_000), ("length", "x" * 5_000_000), ("echo", 3)])
    pid = next(found)[1].values["said"]
    time.sleep(0.8)  # it has read what fits of the first long one
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.1, os.kill, (pid, signal.SIGCONT)).start()
    assert [result.failure for _, result in found] == [None] * 3


def test_threads_other_than_the_main_one_may_ask(made) -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(works(made())))
    thread.start()
    thread.join()
    assert found == [True]


def test_no_items_no_outcomes(made) -> None:
    assert list(made().map([])) == []


def test_a_broken_module_is_said_with_its_last_words(made) -> None:
    pool = made(how="broken")
    for _ in range(2):
        with pytest.raises(WorkerDied, match="RuntimeError: the colours are out"):
            list(pool.map([("echo", 1)]))


def test_workers_killed_from_outside_as_they_start_are_replaced(made, monkeypatch) -> None:
    start, n_left = Pool._start, 4 * MAX_STILLBORN

    def killed(self: Pool) -> Any:
        nonlocal n_left
        place = start(self)
        if n_left:
            n_left -= 1
            os.kill(place.worker.pid, signal.SIGKILL)
        return place

    monkeypatch.setattr(Pool, "_start", killed)
    assert works(made(2))
    assert n_left == 0


def test_a_users_mistake_is_the_users(made) -> None:
    pool = made(how="refused")
    for _ in range(6):
        with pytest.raises(UserError, match=r"^no such colour: try green$"):
            list(pool.map([("echo", 1)]))


ORPHANS = """
import sys, time
from pathlib import Path
from pipeline.children.pool import Pool
pool = Pool("tests.pipeline.children.pool_worker", 2, 600.0, Path(sys.argv[1]))
for _, result in pool.map([("pid",), ("pid",), ("hang",), ("hang",), ("hang",), ("hang",)]):
    print(*[place.worker.pid for place in pool._places], flush=True)
"""


def test_a_worker_that_is_stuck_dies_with_its_parent(tmp_path) -> None:
    """Stuck in C code with the interpreter's lock held, while the parent is killed with SIGKILL."""
    command = [sys.executable, "-c", ORPHANS, str(tmp_path / "log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path))
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(1)  # by now they are stuck
    assert all(busy(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def busy(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "R"


# All of them take minutes, most of which is a hundred deadlines: `make soak` judges them.
EVERY = int(os.environ.get("REVAL_TEST_HOSTILE_EVERY", "9"))


@pytest.fixture
def judges(tmp_path) -> Iterator[Pool]:
    before = children()
    pool = Pool("pipeline.verifiers.child", 2, SECONDS, tmp_path / "judges.log", name="math")
    yield pool
    pool.close()
    assert children() <= before


def test_hostile_text_costs_its_deadline_at_most_and_is_never_right(judges) -> None:
    found, right = verifier("math"), [(str(i), rf"\boxed{{{i}}}") for i in range(20)]
    rows = share(EVERY)
    began = time.monotonic()
    pairs = [(gold, found.read(response)) for _, gold, response in rows]
    assert time.monotonic() - began < 0.5 * len(rows), "to read is linear"
    judged = list(zip(rows, results(judges, pairs), strict=True))
    assert len(judged) >= 200 // EVERY
    said = {name: result.failure or result.values["verdict"] for (name, _, _), result in judged}
    assert set(said.values()) <= {"wrong", "no_answer", "timeout", "crashed"}, said
    assert max(result.seconds for _, result in judged) < SECONDS + 1
    assert time.monotonic() - began < len(rows) * (SECONDS + 2)
    for _, result in judged:
        assert result.failure or len(result.values["extracted_answer"] or "") <= MAX_EXTRACTED_CHARACTERS
    after = results(judges, [(gold, found.read(response)) for gold, response in right])
    assert [result.values["verdict"] for result in after] == ["correct"] * len(right)
    assert max(resident(place.worker.pid) for place in [*judges._places, *judges._spares]) < 300 << 20
    assert not list(Path().glob("**/PWNED"))


def test_what_asks_for_absurd_memory_at_once_is_no_answer(judges) -> None:
    """math-verify would catch the MemoryError and judge the answer wrong."""
    answers = [r"\boxed{10^{10.5^{10}} \mod 7}", r"\boxed{3.5^{10^{10}}!}"]
    assert [result.failure for result in results(judges, [("7", answer) for answer in answers])] == ["crashed"] * 2


def test_hostile_text_survives_into_a_table(judges) -> None:
    """Null bytes, control characters, lines of JSON, and code that is not run."""
    names, responses = zip(*{**TEXT, **CODE}.items(), strict=True)
    found = verdicts(judges, verifier("math"), ["7"] * len(names), list(responses), lambda done, total: None)
    assert len(found) == len(names)
    assert "correct" not in found["verdict"].to_pylist()
    sink = pa.BufferOutputStream()
    pq.write_table(found, sink)
    assert pq.read_table(sink.getvalue()).equals(found)
    assert not list(Path().glob("**/PWNED"))


def test_half_a_surrogate_pair_survives_into_a_table(tmp_path, monkeypatch) -> None:
    (tmp_path / "halves.py").write_text("def judge(gold, response):\n    return False, 'a\\ud800b'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    pool = Pool("pipeline.verifiers.child", 1, SECONDS, tmp_path / "halves.log", name="python:halves:judge")
    found = verdicts(pool, verifier("python:halves:judge"), ["7"], ["8"], lambda done, total: None)
    pool.close()
    assert found["extracted_answer"].to_pylist() == ["a?b"]


@pytest.mark.parametrize(
    "expression",
    [
        "(lambda p: open(p, 'w'))({path!r})",
        "__import__('os').open({path!r}, 64)",
        "__import__('os').system('touch {path}')",
        "__import__('subprocess').run(['touch', {path!r}])",
        "__import__('os').kill(__import__('os').getppid(), 15)",
        "__import__('os').killpg(__import__('os').getpgid(0), 15)",
        "__import__('os').fork()",
        "__import__('ctypes').pythonapi.Py_Exit(0)",
        "__import__('sqlite3').connect({path!r}).execute('create table a (b)')",
    ],
)
def test_code_that_is_run_after_all_does_no_harm(tmp_path, expression) -> None:
    """An audit hook refuses every action that no parser of an answer needs."""
    path = str(tmp_path / "PWNED")
    program = "import sys; from pipeline.verifiers.child import _refuse; sys.addaudithook(_refuse); eval(sys.argv[1])"
    command = [sys.executable, "-c", program, expression.format(path=path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), start_new_session=True)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr
    assert not Path(path).exists()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
