"""Kills the real command at random moments and compares its archive with one that was never disturbed.

    python -m benchmarks.soak --kills 50 --seed 0 --folder /tmp/soak

SIGKILL hits the flow, its engine, its trainer or a verifier alone, or everything at once with the Prefect server. After
every kill the archive must hold all earlier rows, no row twice, and no row without the rows that belong to it. At the end
every row of every table must equal the undisturbed command's row, key by key and value by value, except for wall times.
The seed decides the choices, but the moments depend on the machine. Linux only: the benchmark finds the processes that it
started in /proc, and kills only those.
"""

import ctypes
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.processes import below, cpu, kill, words_of
from flows import server
from pipeline.archive.layout import MARKER, is_shard
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.stages.order import STAGES
from reval.weights import weights_digest
from schemas import TABLES

ROOT = Path(__file__).parent.parent
REVAL = [sys.executable, "-m", "flows.cli"]
SETTINGS = {
    "policy.target_accuracy": 0.1,
    "generate.prompts_per_iteration": 12,
    "generate.samples_per_prompt": 4,
    "generate.shard_trajectories": 16,  # three shards an iteration
    "score.max_seconds": 60,  # a timeout depends on wall time: on a busy machine it would cause differences
    "replay.updates_per_iteration": 3,
    "replay.batch_trajectories": 40,
    "replay.window_trajectories": 72,
    "train.reset_every_iterations": 2,
    "evaluate.max_prompts": 20,
    "evaluate.samples_per_prompt": 2,
    "runtime.micro_batch_tokens": 256,
}
CHILDREN = {
    "pipeline.engines.child": "engine",
    "pipeline.runs.trainer_child": "trainer",
    "pipeline.verifiers.child": "verifier",
}
# For a model this small, two threads mostly wait for each other; on shared cores for minutes.
THREADS = {"OMP_NUM_THREADS": "1"}
FIRST, *_ = STAGES
NEXT = dict(pairwise([*STAGES, "iteration", FIRST]))  # the current stage of a run, by the last stage that ended
# Folders in which a change shows that the run is writing, and the most changes to wait for: the first tables of shards
# with several tables, any table, weights.
PLACES = [
    ([f"{name}/_delta_log" for name in ("engine_checks", "responses", "updates", "passes")], 3),
    ([f"{name}{log}" for name in TABLES for log in ("", "/_delta_log")], 20),
    (["weights", "optimizer", "scratch"], 4),
]
MACHINE = {"seconds", "created_at", "peak_memory_bytes"}
RUN_SECONDS, GONE_SECONDS, BUSY_SECONDS = 900, 60, 3

Rows = dict[str, dict[tuple, tuple]]


class Soak:
    """Two archives made by the same commands, one of them with kills; counts the kills and collects the problems.

    Args:
        n_iterations: of each run.
        options: further options of the command.
        port: of the Prefect server that most commands report to.
        kept: processes that must outlive the commands.
    """

    def __init__(self, folder: Path, seed: int, n_iterations: int, options: list[str], port: int, kept: set[int]) -> None:
        self.calm, self.storm, self.prefect = folder / "calm", folder / "storm", folder / "prefect"
        self.command = [*REVAL, "iterate", "--iterations", str(n_iterations), *options]
        self.n_iterations, self.port, self.kept = n_iterations, port, kept
        self.rng = random.Random(seed)
        self.kills: Counter[tuple[str, str]] = Counter()  # by target and stage
        self.found: Counter[str] = Counter()  # how the archive was left
        self.ends: Counter[str] = Counter()  # how flows ended whose child alone was killed
        self.problems: list[str] = []
        self.rows: Rows = {name: {} for name in TABLES}
        self.n_starts = 0
        self.seconds = 60.0  # wall time of an undisturbed run
        for home in (self.calm, self.storm):
            (home / "log").mkdir(parents=True)

    @contextmanager
    def started(self, run: str, home: Path, log: Path, *, own_server: bool = False) -> Iterator[subprocess.Popen]:
        """Starts the command. At the end all its processes are killed; a process that outlives its flow is a problem."""
        env = environment(home / "prefect") if own_server else environment(self.prefect, self.port)
        with log.open("w") as output:
            command = [*self.command, "--run", run]
            process = subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.DEVNULL, stderr=output)
        try:
            yield process
        finally:
            if process.poll() is None:
                kill([process.pid, *below(process.pid)])
            process.wait()
            if left := self.leftovers(GONE_SECONDS):
                self.problems.append(f"{log.name}: still there after {GONE_SECONDS} s: {[*map(words_of, left)]}")
                kill(left)
                self.leftovers(GONE_SECONDS)

    def leftovers(self, seconds: float) -> set[int]:
        """The processes of an ended command that are still there after waiting for this many seconds."""
        deadline = time.monotonic() + seconds
        while (left := set(below(os.getpid())) - self.kept) and time.monotonic() < deadline:
            for pid in left:  # children of this process by now
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        return left

    def undisturbed(self, run: str, home: Path) -> None:
        """Runs the command to its end."""
        began, log = time.monotonic(), home / "log" / f"{run}-undisturbed.txt"
        with self.started(run, home, log) as process, suppress(subprocess.TimeoutExpired):
            process.wait(RUN_SECONDS)
        self.seconds = time.monotonic() - began
        if process.returncode:
            self.problems.append(f"{log.name}: ended with exit code {process.returncode}")

    def disturbed(self, run: str, most: int) -> bool:
        """Starts the command and kills its processes, at most `most` times; returns whether it ended by itself."""
        self.n_starts += 1
        log, began = self.storm / "log" / f"{self.n_starts:03}.txt", time.time()
        everything = self.rng.random() < 0.1
        targets: list[str] = []
        with self.started(run, self.storm, log, own_server=everything) as process:
            while len(targets) < most and self.moment(process):
                target, pids = "flow", [process.pid]
                if everything:
                    target, pids = "everything", [process.pid, *below(process.pid)]
                elif self.rng.random() < 0.35:
                    target = self.rng.choice(sorted(CHILDREN.values()))
                    pids = await_child(process, target)
                if process.poll() is not None or not kill(pids):
                    continue
                targets.append(target)
                if (stage := self.stage(run, began)) != "end":  # there is nothing left to disturb
                    self.kills[target, stage] += 1
                if process.pid in pids:
                    break
            with suppress(subprocess.TimeoutExpired):
                process.wait(RUN_SECONDS)
        self.judge(log, targets, process.returncode)
        self.rows = self.look(self.storm, log.name)
        if targets:
            self.found[left(self.storm / "archive")] += 1
        return process.returncode == 0

    def moment(self, process: subprocess.Popen) -> bool:
        """Waits until a random moment or until just after a change; returns whether the process still runs."""
        archive, deadline = self.storm / "archive", time.monotonic() + RUN_SECONDS
        (places, most), *_ = self.rng.choices(PLACES, weights=(5, 2, 1))
        n_changes = self.rng.randint(1, most)
        if self.rng.random() < 0.2:
            n_changes, deadline = 1 << 30, time.monotonic() + self.rng.uniform(0, self.seconds)
        seen = times(archive, places)
        while n_changes > 0 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
            if (now := times(archive, places)) != seen:
                seen, n_changes = now, n_changes - 1
        time.sleep(self.rng.uniform(0, self.rng.choice([0, 0.01, 0.05])))
        return process.poll() is None

    def stage(self, run: str, began: float) -> str:
        """The current stage of a run that was started at `began`: that after its last snapshot, or init, start or end."""
        if not (self.storm / "archive" / MARKER).exists():
            return "init"
        store = Store(self.storm / "archive")
        if not db.query(store, "run_recorded", run_id=run):
            return "init"
        if not any(path.stat().st_mtime > began for path in store.layout.log(run, "any").parent.glob("*.log")):
            return "start"
        statement = "SELECT stage, iteration FROM snapshots WHERE run_id = $1 ORDER BY created_at DESC LIMIT 1"
        ended = db.connect(store, only="snapshots").execute(statement, [run]).fetchone()
        if ended is None:
            return "evaluate"  # the base policy
        if ended == ("iteration", self.n_iterations):
            return "end"
        return NEXT[ended[0]] if ended[1] else FIRST

    def judge(self, log: Path, targets: list[str], code: int) -> None:
        """Records how a flow ended that was not killed itself: normally, or in one line because a child was killed."""
        if targets and targets[-1] in ("flow", "everything"):
            return
        last = log.read_text().splitlines()[-1:]
        if targets:
            how = "one line" if code == 1 and last and last[0].startswith("reval: ") else "it went on"
            self.ends[f"{targets[-1]}: {how}"] += 1
        if code and not (targets and how == "one line"):
            self.problems.append(f"{log.name}: exit code {code} after {targets or 'no'} kills: {last}")

    def look(self, home: Path, when: str) -> Rows:
        """Reads the whole archive and records what is wrong in it, or has disappeared since the last reading."""
        if not (home / "archive" / MARKER).exists():
            return {name: {} for name in TABLES}
        store = Store(home / "archive")
        connection = db.connect(store)
        rows: Rows = {}
        for name, table in TABLES.items():
            listed = ", ".join(f'"{column.name}"' for column in table.columns)
            keys = [[column.name for column in table.columns].index(key) for key in table.key]
            read = connection.execute(f'SELECT {listed} FROM "{name}"').fetchall()
            rows[name] = {tuple(row[i] for i in keys): tuple(map(frozen, row)) for row in read}
            if len(rows[name]) < len(read):
                self.problems.append(f"{when}: {name} has {len(read) - len(rows[name])} rows twice")
            if home == self.storm and (gone := self.rows[name].items() - rows[name].items()):
                self.problems.append(f"{when}: {name} lost or changed {len(gone)} rows, one of them {next(iter(gone))}")
        for what, statement in WHOLE.items():
            if alone := connection.execute(statement).fetchall():
                self.problems.append(f"{when}: {what}: {alone[:3]}")
        for policy_id, location, digest in connection.execute(WEIGHTS).fetchall():
            if weights_digest(store.layout.local / location) != digest:
                self.problems.append(f"{when}: the weights of {policy_id} are not those of its row")
        return rows

    def compare(self) -> list[str]:
        """A line per table: rows and whether they are the same; every difference is a problem."""
        calm, storm = (self.look(home, f"{home.name}, at the end") for home in (self.calm, self.storm))
        lines = []
        for name, table in TABLES.items():
            names = [column.name for column in table.columns]
            timeless = [i for i, column in enumerate(names) if column not in MACHINE]
            ours, theirs = storm[name], calm[name]
            both = sorted(ours.keys() & theirs.keys())
            odd = [(key, i) for key in both for i in timeless if ours[key][i] != theirs[key][i]]
            same = not odd and len(ours) == len(theirs) == len(both)
            if not same:
                counts = f"{len(theirs) - len(both)} missing, {len(ours) - len(both)} more"
                differ = dict(Counter(names[i] for _, i in odd))
                one = "".join(f", first {names[i]} of {key}: {theirs[key][i]} → {ours[key][i]}" for key, i in odd[:1])
                self.problems.append(f"{name}: {counts}, values that differ: {differ}{one}")
            if theirs or ours:
                verdict = "the same" if same else "DIFFERENT"
                lines.append(f"  {name:14} {len(theirs):6} rows undisturbed, {len(ours):6} under fire: {verdict}")
        return lines

    def checked(self) -> str:
        """The output of `reval check` for the archive, if there is one."""
        run = {"cwd": self.storm, "env": environment(self.prefect), "capture_output": True, "timeout": RUN_SECONDS}
        if subprocess.run([*REVAL, "check", "--help"], **run).returncode:
            return "there is no such command yet"
        done = subprocess.run([*REVAL, "check"], **run)
        if done.returncode:
            self.problems.append(f"reval check: {(done.stdout + done.stderr).decode()[-500:]}")
        return f"exit code {done.returncode}"


WEIGHTS = "SELECT policy_id, location, weights_digest FROM policies"
# Rows without the rows that belong to them; there must never be any, not even between a kill and the next start.
WHOLE = {
    "rollouts without a response": "SELECT trajectory_id FROM trajectories ANTI JOIN responses USING (trajectory_id)",
    "rollouts of an unchecked batch": "SELECT DISTINCT run_id, iteration FROM trajectories "
    "ANTI JOIN engine_checks USING (policy_id, run_id, iteration)",
    "verdicts of no rollout": "SELECT trajectory_id FROM verdicts ANTI JOIN trajectories USING (trajectory_id)",
    "draws of no verdict": "SELECT pass_id, update, slot FROM draws ANTI JOIN verdicts USING (trajectory_id)",
    "policies without a pass": "SELECT policy_id FROM policies p ANTI JOIN passes USING (policy_id) WHERE iteration > 0",
    "passes without all their updates": "SELECT pass_id FROM passes LEFT JOIN updates USING (pass_id) "
    "GROUP BY pass_id, n_draws HAVING count(update) <> n_draws",
    "snapshots of no run": "SELECT snapshot_id FROM snapshots s ANTI JOIN runs USING (run_id) WHERE s.run_id IS NOT NULL",
}


def frozen(value: Any) -> Any:
    """A value that can be in a set."""
    if isinstance(value, dict):
        return tuple(sorted(value.items()))
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def times(archive: Path, places: list[str]) -> list[int]:
    """The time of the last change of each folder's entries; 0: there is no such folder."""
    return [path.stat().st_mtime_ns if (path := archive / place).exists() else 0 for place in places]


def left(archive: Path) -> str:
    """How a kill left the archive's files."""
    if not (archive / MARKER).exists():
        return "not made yet"
    store = Store(archive)
    known = {Path(path).name for name in TABLES for path in store.shards(name)}
    named = {path for name in TABLES for path in store.shards(name)}
    loose = {path for name in TABLES for path in store.files.listing(name) if is_shard(path)} - named
    if {Path(path).name for path in loose} & known:
        return "between two commits of a shard"
    return "files written, none committed" if loose else "between shards"


# Processes


def environment(prefect: Path, port: int | None = None) -> dict[str, str]:
    """The environment of a command: its Prefect state is in `prefect`, its server on `port`; None: its own server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "REVAL_"))}
    told = {"PREFECT_API_URL": f"http://{server.HOST}:{port}/api"} if port else {}
    return {**kept, **THREADS, "PYTHONPATH": str(ROOT), "REVAL_HOME": str(prefect), **told}


def await_child(flow: subprocess.Popen, name: str) -> list[int]:
    """Waits until a flow has such a child, and then a little until that uses CPU time; empty: the flow ended first."""
    found, deadline = [], time.monotonic() + RUN_SECONDS
    while not found and time.monotonic() < deadline and flow.poll() is None:
        time.sleep(0.001)
        found = [pid for pid in below(flow.pid) for word in words_of(pid) if CHILDREN.get(word) == name][-1:]
    first, deadline = sum(map(cpu, found)), time.monotonic() + BUSY_SECONDS
    while sum(map(cpu, found)) == first and time.monotonic() < deadline and flow.poll() is None:
        time.sleep(0.001)
    return found


def main(
    folder: Annotated[Path, typer.Option(help="A new folder for both archives, logs and Prefect's state.")],
    kills: Annotated[int, typer.Option(min=1)] = 50,
    seed: int = 0,
    iterations: Annotated[int, typer.Option(min=1, help="Of each run; there are as many runs as the kills need.")] = 4,
    base: Annotated[str | None, typer.Option(help="A policy's folder to begin from; saves pre-training twice.")] = None,
    minutes: Annotated[float, typer.Option(help="Stop killing after this long.")] = 60,
) -> None:
    """Exit code 1: a row differs, was lost or came twice, or a run did not continue as it should."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: this process adopts those that outlive a killed flow
    folder, began = folder.resolve(), time.monotonic()
    os.environ["REVAL_HOME"] = str(folder / "prefect")
    settings = {**SETTINGS, **({"policy.base": base} if base else {})}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with socket.socket() as probe:
        probe.bind((server.HOST, 0))
        port = probe.getsockname()[1]
    with server.server(port):  # one server for most starts: starting its own takes a third of a command's time
        soak, runs = Soak(folder, seed, iterations, options, port, set(below(os.getpid()))), ["soak"]
        soak.undisturbed(runs[0], soak.calm)
        calm_seconds, ended = time.monotonic() - began, False
        while (n := soak.kills.total()) < kills and len(soak.problems) < 10 and time.monotonic() - began < 60 * minutes:
            if ended:
                runs.append(f"soak-{len(runs) + 1}")
            ended = soak.disturbed(runs[-1], kills - n)
        storm_seconds = time.monotonic() - began - calm_seconds
        if soak.kills.total() < kills:
            soak.problems.append(f"{soak.kills.total()} kills in {minutes:g} minutes")
        if not ended:
            soak.undisturbed(runs[-1], soak.storm)
        for run in runs[1:]:
            soak.undisturbed(run, soak.calm)
        lines = soak.compare()
        checked = soak.checked()

    echo = typer.echo
    kills = soak.kills.total()
    echo(f"{kills} kills in {soak.n_starts} starts, {len(runs)} runs of {iterations} iterations, seed {seed}")
    seconds = time.monotonic() - began
    echo(f"seconds: {calm_seconds:.0f} the first undisturbed run, {storm_seconds:.0f} under fire, {seconds:.0f} in all")
    for target in sorted({target for target, _ in soak.kills}):
        by_stage = {where: n for (whom, where), n in sorted(soak.kills.items()) if whom == target}
        echo(f"  {target:10} {sum(by_stage.values()):3}  " + ", ".join(f"{where} {n}" for where, n in by_stage.items()))
    echo("the archive was left: " + ", ".join(f"{how} {n}" for how, n in soak.found.most_common()))
    echo("a child alone: " + ("; ".join(f"{how} ({n})" for how, n in soak.ends.most_common()) or "never"))
    echo("\n".join(lines))
    echo(f"reval check: {checked}")
    echo("\n".join(["problems:", *soak.problems]) if soak.problems else "no difference")
    raise typer.Exit(1 if soak.problems else 0)


if __name__ == "__main__":
    typer.run(main)
