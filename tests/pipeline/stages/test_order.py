"""The order of stages is that of the report."""

from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.stages.order import STAGES


def test_progress_has_the_seconds_of_each_stage_in_order(trained) -> None:
    columns = db.query(Store(trained.archive), "progress_of", run_id="arithmetic", iteration=1).column_names
    seconds = [name.removeprefix("seconds_") for name in columns if name.startswith("seconds_")]
    assert seconds == [*STAGES, "overhead"]
