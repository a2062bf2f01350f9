"""`reval evaluate`: answers benchmarks with a policy of the archive or any folder with a model."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, Set, Verbose, command, print_table

if TYPE_CHECKING:
    from pipeline.archive.store import Store
    from pipeline.recipes.config import Config


@command
def evaluate(
    policy: Annotated[
        str,
        typer.Argument(
            help="A policy of the archive (reval sql 'SELECT policy_id FROM policies' lists them), or a model's "
            "folder or hub name."
        ),
    ],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            "-b",
            help="A file of questions, a source of the archive, one of aime24, aime25, amc, math, minerva, olympiad and "
            "gpqa, or OWNER/NAME or OWNER/NAME:FILE on the hub. Can be given again. Default: the recipe's held-out "
            "questions.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-k", min=0, help="Sampled answers to each question, besides the greedy one."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="A recipe's name, or the path of a TOML file. Default: the settings of the run that made it.",
        ),
    ] = None,
    archive: Archive = DEFAULT_ARCHIVE,
    set_: Set = None,
    verbose: Verbose = False,
) -> None:
    """Evaluate a policy: one greedy and k sampled answers to each question; avg@k, pass@k, maj@k with 95 % intervals.

    The questions are added to the archive as held-out ones, and the answers to the table `evaluations`. Answers that are
    there already are not generated again; a larger k adds the missing ones. The view `scores` says how each figure is
    computed.

    A policy that no run here made answers a benchmark as in the paper: its prompt, up to 8,192 tokens, 16 answers. Change
    that with `--set prompts.template=…`, `generate.max_response_tokens` or `generate.temperature`. To use only N
    questions of a benchmark, set `evaluate.max_prompts=N`. `score.verifier` judges; questions with letters as answers are
    judged by `multiple_choice`.
    """
    from pipeline.archive.store import Store
    from pipeline.exchange import evaluation_sets
    from pipeline.inputs import policies
    from pipeline.query import db
    from pipeline.runs.processes import Processes
    from pipeline.runs.request import check
    from pipeline.stages.evaluate import evaluate_policy

    lines = [*(set_ or []), *([] if samples is None else [f"evaluate.samples_per_prompt={samples}"])]
    store, config = _settled(policy, archive, recipe, lines, is_asked=bool(benchmark))
    folder = None if store and _has(store, policy) else _folder(policy)
    found = evaluation_sets.find(store, benchmark or [])
    if found:
        sources = [each.source for each in found]
        evaluated = config.evaluate.model_copy(update={"benchmarks": sources})
        config = config.model_copy(update={"evaluate": evaluated})
    coming = [each.source for each in found if each.path]
    check("evaluate", config, archive, policy_id=None if folder else policy, coming=coming)
    for each in found:
        evaluation_sets.bring(archive, each)
    store = Store.create(archive, config.runtime.storage)
    if folder:
        with store.lock("base"):
            policy = policies.external(store, folder, policy)
    with closing(Processes(config, store, verbose=verbose)) as processes:
        evaluate_policy(store, config, processes, policy)
    print_table(db.query(store, "scores_of", policy_id=policy))


def _settled(
    policy: str, archive: str, recipe: str | None, lines: list[str], *, is_asked: bool
) -> "tuple[Store | None, Config]":
    """The archive (None: it does not exist yet) and the settings for the policy; `is_asked`: benchmarks are named."""
    from pipeline.archive.store import Store
    from pipeline.recipes import BENCHMARK, load
    from pipeline.stages.evaluate import evaluated_as

    config = load(recipe or "arithmetic", lines)
    options = config.runtime.storage
    store = None if Store.vacant(archive, options) else Store(archive, options)
    if recipe:
        return store, config
    own = evaluated_as(store, policy) if store else {}
    if is_asked:  # all questions of a benchmark, also if the run uses fewer of its own
        own = {**BENCHMARK, **own, "evaluate.max_prompts": BENCHMARK["evaluate.max_prompts"]}
    return store, load("arithmetic", lines, defaults=own) if own else config


def _has(store: "Store", policy: str) -> bool:
    from pipeline.query import db

    return policy in db.query(store, "known_policies")["policy_id"].to_pylist()


def _folder(policy: str) -> Path | None:
    """The folder of the model that a user named; None: the name is neither a folder nor a hub name."""
    from pipeline.inputs.policies import find_base

    return find_base(policy, "policy") if "/" in policy or Path(policy).is_dir() else None
