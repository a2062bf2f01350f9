"""What the tasks of `benchmarks.learning` want in an archive: questions and model of `columns`, the single prompts."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks import columns
from benchmarks.arms import Settings
from pipeline import db
from pipeline.generate import generate
from pipeline.import_prompts import import_prompts
from pipeline.processes import Processes
from pipeline.progress import bar, log
from pipeline.recipes import load
from pipeline.run import open_run
from pipeline.score import score
from pipeline.store import Store
from schemas.enums import Split

# Of so many questions, so many answers each, by the base policy: those nearest to these shares of right ones are taken.
SURVEYED, SAMPLES = 200, 32
SINGLE = {"easy": 0.7, "medium": 0.3, "hard": 0.06}


def prepare(store: Store, tasks: Sequence[str]) -> dict[str, Settings]:
    """Brings what is missing into the archive; gives the settings that depend on where it lies, by task."""
    folder = Path(f"{store.layout.root}-tasks")
    with store.lock("learning-tasks"):
        folder.mkdir(exist_ok=True)
        found: dict[str, Settings] = {}
        if "columns" in tasks:
            found["columns"] = {"policy.base": str(_columns(store, folder))}
        if any(task.startswith("single-") for task in tasks):
            _single(store, folder)
    return found


def _columns(store: Store, folder: Path) -> Path:
    """The folder of the base policy of columns."""
    base = folder / "columns-base"
    if not base.exists():
        with bar("pre-train the model of columns") as progress:
            log.info(
                "columns: a sample of the base policy is right %.0f%% of the time", 100 * columns.pretrain(base, progress)
            )
    for split, path in columns.questions(folder).items():
        import_prompts(store.layout.root, path, source="columns", split=Split(split))
    return base


def _single(store: Store, folder: Path) -> None:
    """A question each that the arithmetic base policy mostly, sometimes and hardly ever gets right."""
    settings = {"generate.prompts_per_iteration": SURVEYED, "generate.samples_per_prompt": SAMPLES}
    config, root = load("arithmetic", settings, iterations=1), store.layout.root
    with (
        closing(Processes(config, store)) as processes,
        open_run("iterate", config, root, name="survey", processes=processes) as this,
    ):
        generate(this, 1)
        score(this, 1)
    for name, rate in SINGLE.items():
        nearest = (
            "SELECT problem, any_value(gold_answer), avg(reward) FROM rollouts WHERE run_id = 'survey' GROUP BY problem "
            "ORDER BY abs(avg(reward) - $1), problem LIMIT 1"
        )
        problem, answer, share = db.connect(store).execute(nearest, [rate]).fetchall()[0]
        log.info("single-%s: %s, right %.0f%% of the time", name, problem, 100 * share)
        path = folder / f"single-{name}.jsonl"
        path.write_text(json.dumps({"problem": problem, "answer": answer}) + "\n")
        import_prompts(root, path, source=f"single-{name}", split=Split.TRAIN)
