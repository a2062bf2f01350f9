"""Speed and size of the archive, compared with the disk's limits and with a peer, in the same run.

python -m benchmarks.speed.archive [append|tokens|open|query|fetch ...] [--rows 1000000] [--folder DIR]
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import N_THREADS, Timer, fresh, peak_bytes, say, where
from benchmarks.speed import rollouts
from pipeline.archive.files import sync
from pipeline.archive.layout import shard_file
from pipeline.archive.parquet import write_parquet
from pipeline.archive.store import Store
from pipeline.progress import ConsoleHandler, bar, log
from pipeline.query import db, fetch
from pipeline.query import states as versions
from schemas import TABLES

SHARD = 4096  # rows: generate.shard_trajectories
PARTS = 4  # rollouts of the small model that make one of a realistic length
WANTED = 1024
REPEATS = 7
QUERY = "SELECT policy_id, avg(reward) AS reward FROM {} GROUP BY ALL ORDER BY ALL"
SOURCES = {"trajectories ⋈ verdicts": "trajectories JOIN verdicts USING (trajectory_id)", "view rollouts": "rollouts"}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.archive", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)}; default: all")
    parser.add_argument("--rows", type=int, default=1_000_000, help="trajectories in the archives of query and fetch")
    parser.add_argument("--commits", type=int, default=1000, help="commits to each table in the archive of open")
    parser.add_argument(
        "--train", type=float, default=240, help="seconds to train the model that is sampled; 0: no model"
    )
    parser.add_argument("--folder", type=Path, help="where to work; the model and its rollouts are kept and used again")
    options = parser.parse_args(words)
    if unknown := set(options.what) - set(MEASURES):
        parser.error(f"{sorted(unknown)} is none of {', '.join(MEASURES)}")
    log.handlers = [ConsoleHandler()]
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="archive-benchmark-", dir=options.folder) as scratch:
        found = None
        if not options.what or {"append", "tokens", "fetch"} & set(options.what):
            found = rollouts.realistic(options.folder or Path(scratch), options.train)
        pool = rollouts.made_up(chance) if found is None else found
        made = "MADE UP" if found is None else "sampled from a model"
        print(f"{where(f'pyarrow {pa.__version__}', f'duckdb {duckdb.__version__}')} · token rows {made}")
        for name in options.what or MEASURES:
            print(f"{name}: {(MEASURES[name].__doc__ or '').strip()} Load {os.getloadavg()[0]:.1f}.")
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                MEASURES[name](Work(Path(folder), options.rows, options.commits, pool, found is not None, chance))


@dataclass(frozen=True)
class Work:
    """The inputs of a measurement. `pool` has rows of responses; if not `realistic`, they are made up."""

    folder: Path
    rows: int
    commits: int
    pool: pa.Table
    realistic: bool
    chance: np.random.Generator


def append(work: Work) -> None:
    """Store.write of responses and trajectories against the same two files written by pyarrow alone."""
    store, bare = Store.create(work.folder / "archive"), work.folder / "bare"
    bare.mkdir()
    for n in sorted({min(n, work.rows) for n in (64, 512, SHARD, 4 * SHARD)}):
        timer, n_bytes = Timer(), 0
        for k in range(2 * REPEATS):
            rows = rollouts.responses(work.pool, n, PARTS, work.chance)
            shard = {"responses": rows, "trajectories": rollouts.trajectories(rows, k, work.chance)}
            writers = [partial(_write_bare, bare, shard, timer), partial(_write_ours, store, f"{n}/{k}", shard, timer)]
            for write in writers if k % 2 else reversed(writers):
                write()
            n_bytes = sum((bare / name).stat().st_size for name in shard)
            for name in shard:
                (bare / name).unlink()
        what = f"append {n:,} rollouts, {n_bytes / 1e6:.1f} MB"
        for peer in ("bare + fsync", "bare"):
            ratio = timer[peer] / timer["ours"]
            say(what, timer.text("ours"), timer.text(peer), ratio, "≥ 0.9", ratio >= 0.9)


def _write_bare(folder: Path, shard: dict[str, pa.Table], timer: Timer) -> None:
    with timer("bare + fsync"):
        with timer("bare"):
            for name, table in shard.items():
                write_parquet(table, name, folder / name)
        for path in (*(folder / name for name in shard), folder):
            sync(path)


def _write_ours(store: Store, name: str, shard: dict[str, pa.Table], timer: Timer) -> None:
    with timer("ours"):
        store.write(name, shard)


def tokens(work: Work) -> None:
    """Bytes on disk for each response token, by column, against pyarrow's defaults."""
    if not work.realistic:
        print(f"tokens: skipped: there is no {rollouts.SOLUTIONS} to train a model on, or --train is 0")
        return
    store = Store.create(work.folder / "archive")
    store.write("tokens", {"responses": work.pool})
    pq.write_table(work.pool, work.folder / "defaults.parquet")
    ours = _bytes_per_token(work.folder / "archive" / shard_file("tokens", "responses"), work.pool)
    peer = _bytes_per_token(work.folder / "defaults.parquet", work.pool)
    names = {"response_token_ids": "ids", "behaviour_logprobs": "log-probs", "response_text": "text"}
    for column in (*names, "rest"):
        mine, other = (
            found.get(column, sum(found.values()) - sum(found.get(n, 0) for n in names)) for found in (ours, peer)
        )
        say(f"tokens: {names.get(column, column)}", f"{mine:.2f} B a token", f"defaults {other:.2f}", mine / other)
    both, default = (found["response_token_ids"] + found["behaviour_logprobs"] for found in (ours, peer))
    length = len(work.pool["response_token_ids"].combine_chunks().values) / len(work.pool)
    what = f"tokens: ids + log-probs, {length:.0f} a rollout"
    say(what, f"{both:.2f} B a token", f"defaults {default:.2f}", both / default, "≤ 5 B", both <= 5)


def _bytes_per_token(path: Path, rows: pa.Table) -> dict[str, float]:
    """Bytes per response token of each top-level column of a Parquet file of responses."""
    n_tokens, meta = len(rows["response_token_ids"].combine_chunks().values), pq.read_metadata(path)
    found = dict.fromkeys(rows.column_names, 0.0)
    for group in range(meta.num_row_groups):
        for number in range(meta.num_columns):
            column = meta.row_group(group).column(number)
            found[column.path_in_schema.split(".")[0]] += column.total_compressed_size / n_tokens
    return found


def open_(work: Work) -> None:
    """Opens a label in the middle of a long history and counts its rows, in a new process."""
    store, root, label = Store.create(work.folder / "archive"), work.folder / "archive", "middle"
    log.info("open: making %d commits to each of four tables", work.commits)
    with bar("commits") as progress:
        for k in range(work.commits):
            rows = rollouts.bare(GROUP, work.chance)
            made = rollouts.trajectories(rows, k, work.chance)
            store.write(f"g{k}", {"responses": rows, "trajectories": made})
            store.write(f"s{k}", {"verdicts": rollouts.verdicts(made, work.chance)})
            name = store.snapshot(f"n{k}", "score", run_id="run", iteration=k)
            if k == work.commits // 2:
                versions.tag(store, name, label)
            progress(k + 1, work.commits)
    rows_there = (work.commits // 2 + 1) * GROUP
    found = [fresh(_opened, root, label) for _ in range(3)]
    assert all(one["rows"] == rows_there for one in found), found
    best = sorted(found, key=lambda one: one["seconds"])[1]
    steps = ", ".join(f"{name} {1000 * best[name]:.0f}" for name in ("store", "resolve", "connect", "count"))
    what = f"open a label of {work.commits:,} commits a table"
    say(what, f"{best['seconds']:.2f} s", f"of which ms: {steps}", None, "< 1 s", best["seconds"] < 1)
    say("open, with Python's start and imports", f"{best['process']:.2f} s", "", None, "< 1 s", best["process"] < 1)


def _opened(root: str, label: str) -> dict[str, Any]:
    timer = Timer()
    with timer("seconds"):
        with timer("store"):
            store = Store(root)
        with timer("resolve"):
            state = versions.resolve(store, label)
        with timer("connect"):
            connection = db.connect(store, state.versions)
        with timer("count"):
            found = connection.execute("SELECT count(*) FROM trajectories").fetchall()
    return {"rows": found[0][0], **{name: timer[name] for name in timer.wall}}


def query(work: Work) -> None:
    """Mean reward by policy through the function behind `reval sql`, against DuckDB on the same files."""
    store, root = Store.create(work.folder / "archive"), work.folder / "archive"
    log.info("query: making %s trajectories", f"{work.rows:,}")

    def make(number: int, n: int) -> dict[str, pa.Table]:
        rows = rollouts.bare(n, work.chance)
        made = rollouts.trajectories(rows, number, work.chance)
        return {"responses": rows, "trajectories": made, "verdicts": rollouts.verdicts(made, work.chance)}

    _fill(store, work.rows, make, "trajectories")
    store.write("rest", {"prompts": rollouts.prompts(), **rollouts.runs(-(-work.rows // SHARD))})
    for what in SOURCES:
        ours, peer = fresh(_asked, root, what), fresh(_asked_duckdb, root, what)
        assert ours["answer"] == peer["answer"], what
        times = [
            f"{found['first']:.2f} s (cpu {found['cpu']:.2f}, best {found['best']:.2f}), {found['peak'] / 1e6:.0f} MB"
            for found in (ours, peer)
        ]
        met = ours["first"] < 1 and ours["peak"] < 1e9
        say(
            f"query: {what}, {work.rows:,}",
            times[0],
            f"DuckDB {times[1]}",
            peer["first"] / ours["first"],
            "< 1 s, 1 GB",
            met,
        )


def _fill(store: Store, n: int, make: Callable[[int, int], dict[str, pa.Table]], what: str) -> pa.Array:
    """Adds shards with `n` rows in total; each table is committed once at the end. Returns the trajectory_ids."""
    sizes = [min(SHARD, n - start) for start in range(0, n, SHARD)]
    paths: dict[str, list[str]] = {}
    shards, ids = [], []
    with bar(what) as progress:
        for number, size in enumerate(sizes):
            shards.append(f"{what}-{number}")
            for name, rows in make(number, size).items():
                paths.setdefault(name, []).append(shard_file(shards[-1], name))
                store.files.make(paths[name][-1], partial(write_parquet, rows, name))
            ids += rows["trajectory_id"].chunks
            progress(number + 1, len(sizes))
    for name, files in paths.items():
        store.append(name, dict.fromkeys(files), shards)
    return pa.concat_arrays(ids)


def _asked(root: str, what: str) -> dict[str, Any]:
    return _timed(lambda: db.ask(Store(root), QUERY.format(SOURCES[what])).read_all())


def _asked_duckdb(root: str, what: str) -> dict[str, Any]:
    connection = db.database()
    for name in ("trajectories", "verdicts", "responses", "prompts"):
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{root}/{name}/*.parquet')")
    connection.register("runs", TABLES["runs"].schema.empty_table())
    db.derive(connection, ("run_settings", "judges", "rollouts"))
    return _timed(lambda: connection.sql(QUERY.format(SOURCES[what])).to_arrow_table())


def _timed(ask: Callable[[], pa.Table]) -> dict[str, Any]:
    timer = Timer()
    for _ in range(6):
        with timer("ask"):
            answer = ask()
    (first, *others), cpu = timer.wall["ask"], timer.cpu["ask"][0]
    rows = [(row["policy_id"], round(row["reward"], 9)) for row in answer.to_pylist()]
    return {"first": first, "best": min(others), "cpu": cpu, "peak": peak_bytes(), "answer": rows}


def fetch_(work: Work) -> None:
    """Fetches responses of given trajectories, against decoding, and reading, the row groups that hold them."""
    store = Store.create(work.folder / "archive")
    log.info("fetch: making %s responses, a tenth first", f"{work.rows:,}")

    def make(_: int, n: int) -> dict[str, pa.Table]:
        return {"responses": rollouts.responses(work.pool, n, PARTS, work.chance)}

    ids = _fill(store, work.rows // 10, make, "tenth")
    tenth = Store.create(work.folder / "tenth")  # the same files in a separate archive
    for number, path in enumerate(store.shards("responses")):
        (tenth.files.local / path).hardlink_to(store.files.local / path)
        tenth.append("responses", {path: None}, [f"tenth-{number}"])
    early = ids.take(work.chance.choice(len(ids), min(WANTED, len(ids)), replace=False)).to_pylist()
    ids = pa.concat_arrays([ids, _fill(store, work.rows - len(ids), make, "rest")])
    wanted = ids.take(work.chance.choice(len(ids), min(WANTED, len(ids)), replace=False)).to_pylist()
    size = sum(store.shards("responses").values()) / 1e9
    for columns in (fetch.TOKEN_IDS, [column.name for column in TABLES["responses"].columns]):
        _against_limits(store, wanted, columns, f"{len(wanted):,} of {len(ids):,} ({size:.1f} GB)")
    timer = Timer()
    for _ in range(REPEATS):
        for kind, archive in (("", store), ("a tenth: ", tenth)):
            with timer(f"{kind}locate"):
                located = fetch.locate(archive, early)
            with timer(f"{kind}read"):
                found = fetch.read(archive, located, ["trajectory_id", *fetch.TOKEN_IDS])
            assert found["trajectory_id"].to_pylist() == early
    ratio = timer["read"] / timer["a tenth: read"]
    what = "fetch the same from an archive a tenth the size"
    say(what, timer.text("read"), timer.text("a tenth: read"), ratio, "≤ 1.1", ratio <= 1.1)
    say("", timer.text("locate"), timer.text("a tenth: locate"), timer["locate"] / timer["a tenth: locate"])


def _against_limits(store: Store, ids: list[str], columns: Sequence[str], what: str) -> None:
    timer, located = Timer(), fetch.locate(store, ids)
    groups, ranges = _row_groups(store, located, columns)
    n_bytes = sum(size for found in ranges.values() for _, size in found)
    limits: dict[str, Callable[[], object]] = {
        "decode": lambda: _decode(store, groups, columns),
        "pread": lambda: _read_ranges(store, ranges),
        "read": lambda: fetch.read(store, located, columns),
    }
    for _ in range(REPEATS):
        for name, call in limits.items():
            with timer(name):
                call()
    for _ in range(3):
        for name in ("pread", "read"):
            _forget(store, ranges)
            with timer(f"cold {name}"):
                limits[name]()
    what = f"fetch {'ids' if len(columns) == 2 else 'all columns'}, {what}"
    say(what, f"{n_bytes / 1e6:.0f} MB in {sum(map(len, groups.values())):,} row groups", f"{len(groups)} files")
    for ours, peer, target in (("read", "decode", 0.5), ("cold read", "cold pread", 0.5), ("read", "pread", None)):
        ratio = timer[peer] / timer[ours]
        goal, met = (f"≥ {target}", ratio >= target) if target else ("", None)
        say("", timer.text(ours), timer.text(peer), ratio, goal, met)


def _row_groups(
    store: Store, located: pa.Table, columns: Sequence[str]
) -> tuple[dict[str, list[int]], dict[str, list[tuple[int, int]]]]:
    """By file: the row groups that hold the rows, and the places of these columns in them as (start, bytes)."""
    groups, ranges = dict[str, list[int]](), dict[str, list[tuple[int, int]]]()
    paths, rows = np.array(located["path"].to_pylist()), located["row"].to_numpy()
    for path in sorted(set(paths)):
        meta = pq.read_metadata(store.files.local / path)
        ends = np.cumsum([meta.row_group(k).num_rows for k in range(meta.num_row_groups)])
        groups[path] = np.unique(np.searchsorted(ends, rows[paths == path], side="right")).tolist()
        chunks = [meta.row_group(k).column(c) for k in groups[path] for c in range(meta.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        ranges[path] = [(c.dictionary_page_offset or c.data_page_offset, c.total_compressed_size) for c in wanted]
    return groups, ranges


def _decode(store: Store, groups: dict[str, list[int]], columns: Sequence[str]) -> None:
    def one(path: str) -> None:
        with pq.ParquetFile(store.files.local / path, pre_buffer=True) as file:
            file.read_row_groups(groups[path], columns=list(columns), use_threads=False)

    with ThreadPoolExecutor(N_THREADS) as threads:
        list(threads.map(one, groups))


def _read_ranges(store: Store, ranges: dict[str, list[tuple[int, int]]]) -> None:
    def one(path: str) -> None:
        file = os.open(store.files.local / path, os.O_RDONLY)
        for start, size in ranges[path]:
            os.pread(file, size, start)
        os.close(file)

    with ThreadPoolExecutor(N_THREADS) as threads:
        list(threads.map(one, ranges))


def _forget(store: Store, paths: dict[str, Any]) -> None:
    """Lets the operating system drop its cache of the files; they were fsynced when they were made."""
    for path in paths:
        file = os.open(store.files.local / path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


GROUP = rollouts.GROUP
MEASURES = {"append": append, "tokens": tokens, "open": open_, "query": query, "fetch": fetch_}

if __name__ == "__main__":
    main()
