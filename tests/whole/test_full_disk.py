"""A disk that becomes full at each moment in turn: no committed row is lost, and none is there twice."""

import subprocess

import pytest

from flows.cli.errors import one_line
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.upkeep import check
from tests.helpers.archives import references, verdicts

N_SHARDS, N_ROWS, STEP_KB = 30, 20, 8


@pytest.fixture
def disk(tmp_path):
    """A separate file system, and a function that makes it larger."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    yield (
        tmp_path / "archive",
        lambda kb: subprocess.run(["mount", "-o", f"remount,size={kb}k", tmp_path], check=True),
    )
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_costs_only_what_was_not_committed(disk) -> None:
    root, grow = disk
    size, full, done, said = 400, 0, 0, set()
    while done < N_SHARDS:
        try:
            store = Store.create(root)
            names = [f"{done}-{row}" for row in range(N_ROWS)]
            if not store.recover(f"s{done}", ("references", "verdicts")):
                store.write(f"s{done}", {"references": references(*names), "verdicts": verdicts(*names)})
            store.snapshot(f"s{done}/snapshot", "test")
            done += 1
        except Exception as error:  # as many kinds as there are writers
            said.add(one_line(error) or repr(error))
            full, size = full + 1, size + STEP_KB
            grow(size)
    assert all("o space left" in line for line in said), said
    assert full > N_SHARDS, "the disk was never full in between"
    connection = db.connect(Store(root))
    for name, n in (('"references"', N_SHARDS * N_ROWS), ("verdicts", N_SHARDS * N_ROWS), ("snapshots", N_SHARDS)):
        key = "snapshot_id" if name == "snapshots" else "trajectory_id"
        assert connection.execute(f"SELECT count(*), count(DISTINCT {key}) FROM {name}").fetchall() == [(n, n)]
    assert list(check.files(Store(root), Store(root).versions())) == []
