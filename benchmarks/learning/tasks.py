"""The starting points of the tasks of `benchmarks.learning`: base policies, questions and single prompts.

Policies and prompts are kept in `results/start`, with the results, and are not trained again. On another processor the
same code rounds differently and stops at another step, and the accuracy of the policy differs by some points.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.learning import columns, results
from benchmarks.learning.arms import TASKS, RecipeSettings
from pipeline.archive.store import Store
from pipeline.exchange.import_prompts import import_prompts
from pipeline.inputs import arithmetic
from pipeline.progress import bar, log
from pipeline.query import db
from pipeline.recipes import load
from pipeline.runs.processes import Processes
from pipeline.runs.request import check
from pipeline.runs.run import open_run
from pipeline.stages.generate import generate
from pipeline.stages.score import score
from reval.weights import weights_digest
from schemas import UserError
from schemas.enums import Split

START = results.QUERIES / "start"
# The base policy answers 200 questions 32 times each. The questions nearest to these shares of right answers are taken.
SURVEYED, SAMPLES = 200, 32
SINGLE = {"easy": 0.7, "medium": 0.3, "hard": 0.06}


def prepare(store: Store, tasks: Sequence[str]) -> dict[str, RecipeSettings]:
    """Brings missing questions into the archive; returns the settings that depend on local folders, by task.

    Raises:
        UserError: the saved results began from another policy than the one in results/start.
    """
    folder = Path(f"{store.layout.root}-tasks")
    with store.lock("learning-tasks"):
        folder.mkdir(exist_ok=True)
        bases = {task: base(name) for task in tasks if (name := TASKS[task].base)}
        for task, path in bases.items():
            if others := results.bases(task) - {weights_digest(path)}:
                raise UserError(
                    f"results of {task} began from another policy ({min(others)[:8]}…) than {path}: "
                    "bring that back, or move the results away"
                )
        if "columns" in tasks:
            for split, path in columns.questions(folder).items():
                import_prompts(store.layout.root, path, source="columns", split=Split(split))
        if any(task.startswith("single-") for task in tasks):
            _single(store)
    return {task: {"policy.base": str(path)} for task, path in bases.items()}


def base(name: str) -> Path:
    """The folder of a base policy; trains the policy if it is missing."""
    folder = START / name
    if not folder.exists():
        with bar(f"pre-train the model of {name}") as progress:
            if name == "columns":
                columns.pretrain(folder, progress)
            else:
                recipe = load("arithmetic")
                how = recipe.prompts.seed, recipe.policy.seed, recipe.policy.target_accuracy
                arithmetic.pretrain(str(folder), *how, progress)
    return folder


def _single(store: Store) -> None:
    """Three questions: one that the arithmetic base policy mostly gets right, one sometimes, one hardly ever."""
    files = {name: START / f"single-{name}.jsonl" for name in SINGLE}
    if not all(path.exists() for path in files.values()):
        _survey(store, files)
    for name, path in files.items():
        import_prompts(store.layout.root, path, source=f"single-{name}", split=Split.TRAIN)


def _survey(store: Store, files: dict[str, Path]) -> None:
    """Lets the base policy answer questions, and writes the chosen ones to files."""
    sizes = {"generate.prompts_per_iteration": SURVEYED, "generate.samples_per_prompt": SAMPLES}
    config = load("arithmetic", {**sizes, "policy.base": str(base("arithmetic"))}, iterations=1)
    with (
        closing(Processes(config, store)) as processes,
        open_run(check("iterate", config, store.layout.root, name="survey"), processes=processes) as this,
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
        files[name].write_text(json.dumps({"problem": problem, "answer": answer}) + "\n")
