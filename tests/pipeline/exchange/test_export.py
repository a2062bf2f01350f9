"""What `reval export` wrote comes back row for row, once, and never over something else of the same name."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.archive.store import Store
from pipeline.exchange import import_archive
from pipeline.query import db
from schemas import TABLES
from tests.helpers.archives import edit
from tests.helpers.command import invoke, refused


@pytest.fixture
def exported(trained, tmp_path) -> Path:
    invoke("export", str(tmp_path / "out"), "--weights", "-a", str(trained.archive))
    return tmp_path / "out"


def test_an_archive_goes_out_and_comes_back(trained, exported, tmp_path, monkeypatch) -> None:
    """Equal and complete; every file is read once for its checksum. A second import finds everything known."""
    where, read = ("-a", str(tmp_path / "copy")), []
    real = import_archive.sha256
    monkeypatch.setattr(import_archive, "sha256", lambda path: read.append(path) or real(path))
    invoke("import", str(exported), *where)
    assert sorted(read) == sorted(exported.glob("**/*.parquet"))
    assert invoke("diff", "now", f"{trained.archive}@now", *where).stdout.endswith("equal\n")
    assert "whole" in invoke("check", *where).stdout
    n = sum(db.connect(Store(trained.archive)).execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in TABLES)
    assert invoke("import", str(exported), *where).stdout == f"{exported}: 0 rows added, {n:,} known\n"


def test_another_thing_of_the_same_name_is_refused(archive, exported) -> None:
    store = Store(archive)
    edit(store, "verdicts", lambda rows: rows.set_column(rows.column_names.index("reward"), "reward", pa.array([7.0] * len(rows))))  # fmt: skip
    before = store.versions()
    assert "is another one in" in (line := refused("import", str(exported), "-a", str(archive)))
    assert line.endswith("nothing was imported")
    assert Store(archive).versions() == before


def test_a_file_that_is_not_as_it_was_exported_is_refused(exported, tmp_path) -> None:
    path = next((exported / "verdicts").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "SHA-256 differs" in refused("import", str(exported), "-a", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
