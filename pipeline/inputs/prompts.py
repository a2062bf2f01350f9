"""Questions: where they come from, and how a problem becomes the token ids that an engine gets."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.store import Store
from pipeline.inputs import arithmetic
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.query import db
from pipeline.recipes.config import Config, Prompts
from pipeline.verifiers import IMPORTED
from schemas import UserError, digest
from schemas.enums import Split

# Evaluations by these verifiers are named without the verifier, as when `math` was the only one. Labels cannot judge a
# new answer to a benchmark.
USUAL = ("math", IMPORTED)
# The verifier of a benchmark whose gold answers are all letters, if the recipe's verifier is one of USUAL.
LETTERED = "multiple_choice"


@dataclass(frozen=True)
class EvaluationSet:
    """The held-out questions of a source, the verifier of their answers, and the name of both in `evaluations`."""

    source: str
    verifier: str
    name: str


def source(config: Config) -> str:
    """The name of a recipe's questions in the archive. Arithmetic with another seed has another split: another source."""
    name, seed = config.prompts.source, config.prompts.seed
    return f"{name}-{seed}" if seed and name == EMBEDDED else name


def prompt_row(
    source: str, split: str, problem: str, gold_answer: str, import_id: str | None = None, line: int | None = None
) -> dict[str, Any]:
    """A row of prompts. Its id is a digest: the same question of a source has the same id in every archive.

    Args:
        import_id: the import that brought it; None: the question is made here.
        line: its line in the imported file; None: the question is made here.
    """
    return {
        "prompt_id": digest("prompt", source, problem, gold_answer),
        "source": source,
        "split": split,
        "problem": problem,
        "gold_answer": gold_answer,
        "import_id": import_id,
        "line": line,
    }


def evaluation_sets(store: Store, config: Config) -> list[EvaluationSet]:
    """The evaluation sets of a recipe's policies."""
    usual = config.score.verifier
    if not config.evaluate.benchmarks:
        return [EvaluationSet(source(config), usual, _named(config, source(config), usual))]
    lettered = db.query(store, "lettered_sources")["source"].to_pylist() if usual in USUAL else []
    judged = [(name, LETTERED if name in lettered else usual) for name in config.evaluate.benchmarks]
    return [EvaluationSet(name, judge, _named(config, name, judge)) for name, judge in judged]


def _named(config: Config, source: str, judge: str) -> str:
    """The name of an evaluation: its held-out questions, and a digest of everything else that decides an answer."""
    how: tuple[Any, ...] = (config.prompts.template, config.generate.max_response_tokens, config.evaluate.max_prompts)
    if judge not in USUAL:
        how = (*how, judge)
    return f"{source}/{Split.HELDOUT}@{digest(*how)[:6]}"


def check(store: Store | None, config: Config, flow: str, coming: Collection[str] = ()) -> None:
    """Checks that the questions of a flow are available; with store None the archive does not exist yet.

    Args:
        coming: sources that will be imported.

    Raises:
        UserError: they are not made here, and were not imported.
    """
    found = db.query(store, "prompt_sources").to_pylist() if store else []
    there = ", ".join(row["source"] for row in found)
    has = f"the archive has {there}" if there else "the archive has no questions yet"
    name, evaluated = config.prompts.source, config.evaluate.benchmarks if flow in ("iterate", "evaluate") else []
    asked = flow != "evaluate" or not evaluated
    if asked and name != EMBEDDED and name not in {row["source"] for row in found}:
        raise UserError(f"prompts.source = {name!r}: {has}; `reval import prompts FILE --source {name}` brings some")
    heldout = {row["source"] for row in found if row["n_heldout"]}
    if lacking := [each for each in evaluated if each not in heldout and each not in coming]:
        raise UserError(
            f"evaluate.benchmarks: there are no held-out questions of source {lacking[0]!r} ({has}); "
            f"`reval import prompts FILE --source {lacking[0]} --split heldout` brings some"
        )


def ensure(store: Store, config: Config) -> None:
    """Adds a recipe's questions to the archive if they are missing.

    Raises:
        UserError: see `check`.
    """
    check(store, config, "init")
    name = source(config)
    if config.prompts.source != EMBEDDED:
        return
    shard = f"prompts/{name}"
    if not store.recover(shard, ("prompts",)):
        rows = _rows(name, config)
        there = db.query(store, "known_prompts", source=name)["prompt_id"]  # they came with imported rollouts
        store.write(shard, {"prompts": rows.filter(pc.invert(pc.is_in(rows["prompt_id"], there.combine_chunks())))})
    store.snapshot(f"{shard}/snapshot", "prompts")


def _rows(name: str, config: Config) -> pa.Table:
    problems = arithmetic.problems(config.prompts.seed)
    rows = [prompt_row(name, split, problem, answer) for problem, answer, split in problems]
    return pa.Table.from_pylist(rows)


@cache
def tokenizer(location: str) -> Any:
    """The tokenizer of a policy's folder. Policies of a run share it, so callers pass the base policy's folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise UserError(f"policy {location}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None


def encode(location: str, settings: Prompts, problems: list[str]) -> list[list[int]]:
    """Token ids of each problem in its prompt. Special tokens are only those that the template contains."""
    texts = [settings.template.replace("{problem}", problem) for problem in problems]
    # Without `verbose=False` it warns of long prompts; the caller handles those.
    ids: list[list[int]] = tokenizer(location)(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def decode(location: str, responses: list[list[int]]) -> list[str]:
    """The text of each response, special tokens left out."""
    texts: list[str] = tokenizer(location).batch_decode(responses, skip_special_tokens=True)
    return texts
