"""`reval plan`: shows the effect of a recipe's schedule before a run; replay/plan.py and runs/costs.py compute it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Recipe, Set, command, print_table

if TYPE_CHECKING:
    from pipeline.archive.store import Store
    from pipeline.recipes.config import Config
    from pipeline.replay.plan import Plan
    from pipeline.runs.costs import Measured

AGES_SHOWN = 10
# Rules that depend on rewards, which are not known before a run.
BY_REWARD = {"keep_correct", "balanced", "fresh_priority", "custom"}


@command
def plan(
    recipe: Recipe = "arithmetic",
    iterations: Annotated[
        int | None, typer.Option("--iterations", "-n", min=1, help="How many in all. Default: the recipe's.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive", "-a", help="An archive whose runs give lengths, sizes and seconds.", envvar="REVAL_ARCHIVE"
        ),
    ] = None,
    set_: Set = None,
) -> None:
    """Show what a run of `iterate` would train on, how often, and what it would cost. Nothing is made or loaded.

    `--set replay.rule=…` chooses the draw rule: fifo, recency, fresh_priority, keep_correct, balanced, groups or custom.
    docs/replay.md explains them.
    """
    from pipeline.recipes import load
    from pipeline.replay import plan as planning
    from pipeline.runs import costs

    config = load(recipe, set_ or [], iterations=iterations)
    found = planning.plan(config)
    store = _archive(archive, config)
    known = costs.measured(store, config, any_run=archive is not None) if store else costs.Measured()
    _say_schedule(config, found)
    _say_uses(config, found)
    _say_costs(config, found, known)
    _say_optimum(config, found, known)


def _archive(archive: str | None, config: "Config") -> "Store | None":
    """The named archive, or the default one if none is named; None: the default archive does not exist yet."""
    from pipeline.archive.layout import MARKER
    from pipeline.archive.store import Store

    if archive is None and not Path(DEFAULT_ARCHIVE, MARKER).is_file():
        return None
    return Store(archive or DEFAULT_ARCHIVE, config.runtime.storage)


def _say_schedule(config: "Config", found: "Plan") -> None:
    from pipeline.replay.plan import table
    from pipeline.replay.schedule import n_fresh

    made, settings = config.generate, config.replay
    how = settings.schedule if settings.shares else f"{settings.schedule}, {settings.rule}"
    window = settings.window_trajectories
    typer.echo(
        f"{config.recipe}: {config.iterations} iterations of {made.prompts_per_iteration} × {made.samples_per_prompt} = "
        f"{n_fresh(config):,} rollouts; {settings.updates_per_iteration} updates of {settings.batch_trajectories:,} rows "
        f"({how}) from {'all rollouts' if window == 'all' else f'the newest {window:,}'}"
    )
    print_table(table(found.shown))
    if found.settled:
        typer.echo(f"From iteration {found.settled} on, every one trains on as many rows and as old, but for chance.")
    elif found.last < config.iterations:
        typer.echo(
            f"Planned as far as iteration {found.last}: later ones draw from more rollouts than are made up for a plan."
        )
    else:
        typer.echo("It does not settle before the end: the window is not full by then, or the shares still change.")
    for first, last, said in found.short:
        typer.echo(f"Iteration {first}: {said}" if first == last else f"Iterations {first}-{last}: at first, {said}")
    idle = [row.iteration for row in found.shown if not row.n_updates]
    if idle and settings.if_short != "wait":
        typer.echo(f"Iteration {idle[0]}: its draw rule takes no rollout; a run stops there.")
    if settings.rules() & BY_REWARD:
        typer.echo("Rewards are made up: a pass rate for each prompt, spread evenly from 0 to 1.")
    if "fresh_priority" in settings.rules():
        typer.echo("fresh_priority: before a run no rollout has a residual; |target| stands in for it.")


def _say_uses(config: "Config", found: "Plan") -> None:
    from pipeline.replay.plan import expected_uses
    from pipeline.replay.schedule import n_fresh

    settings, last, each = config.replay, found.shown[-1], n_fresh(config)
    window = settings.window_trajectories
    eq3 = "-" if window == "all" else f"{expected_uses(window, each, settings.updates_per_iteration):.3g}"
    typer.echo(
        f"\nUses of a rollout: Eq. 3 of the paper, ⌊M/B⌋·(B/M)·K: {eq3}; this schedule: {last.uses:.3g}, "
        f"{last.n_fresh + last.n_replayed:,} draws for {each:,} rollouts in iteration {last.iteration}."
    )
    if found.settled:
        by_age = [n / each for n in last.n_draws_by_age]
        first, rest = by_age[:AGES_SHOWN], by_age[AGES_SHOWN:]
        older = f", older {sum(rest):.2f}" if rest else ""
        typer.echo(
            f"Over its life, by age in iterations from 0, as drawn: {' '.join(f'{uses:.2f}' for uses in first)}{older}; "
            f"in all {sum(by_age):.2f}."
        )


def _say_costs(config: "Config", found: "Plan", known: "Measured") -> None:
    from pipeline.replay.schedule import n_fresh
    from pipeline.runs import costs

    n_rollouts = config.iterations * n_fresh(config)
    n_draws = config.iterations * (found.shown[-1].n_fresh + found.shown[-1].n_replayed)
    length, source = float(config.generate.max_response_tokens), "generate.max_response_tokens, so at most"
    if known.response_tokens is not None:
        length, source = known.response_tokens, f"the mean of {known.n_responses:,} in the archive"
    n, how = costs.parameters(config.policy.base, known)
    cost = costs.costs(n_rollouts, n_draws, length, config.iterations, n, config.keep)
    typer.echo(
        f"Disk: tables {_size(cost.archive)}: {n_rollouts:,} rollouts of {_number(length)} response tokens ({source}), "
        f"{costs.IDS_AND_LOGPROBS_BYTES} B a token for ids and log-probs and about {costs.TEXT_BYTES} B for text, "
        f"{costs.ROLLOUT_BYTES} B a rollout, and {costs.DRAW_BYTES} B for each of {n_draws:,} draws; evaluations on top."
    )
    typer.echo(memory(config, config.policy.base, n, how, config.generate.max_response_tokens))
    if cost.weights is None or cost.moments is None:
        return
    typer.echo(
        f"Disk: policies {_size(cost.weights)} and optimizer states {_size(cost.moments)}: {costs.WEIGHTS_BYTES} B and "
        f"{costs.MOMENTS_BYTES} B for each of {n:,} parameters ({how}), of those that `keep` leaves: policies_every = "
        f"{config.keep.policies_every}, optimizer_states = {config.keep.optimizer_states}."
    )


def memory(config: "Config", base: str, n_parameters: int | None, how: str, longest: int) -> str:
    """A line with the memory that a process of the trainer needs.

    Args:
        base: the policy's folder, hub name, or the embedded model.
        how: where the number of parameters comes from, or why it is not known.
        longest: tokens of the longest trajectory.
    """
    from pipeline.runs.memory import parts, shape
    from pipeline.runs.processes import n_trainers

    if n_parameters is None:
        return f"Memory and policies: the number of parameters is {how}."
    sizes, n_processes = shape(base), n_trainers(config.runtime)
    found = parts(config, n_parameters, sizes, longest, n_processes)
    said = ", ".join(f"{name} {_size(n_bytes)}" for name, n_bytes in found.items())
    many = f"each of {n_processes} processes that train" if n_processes > 1 else "the trainer"
    batch = max(longest, config.runtime.micro_batch_tokens)
    rest = "" if sizes else f"; activations on top, which the config of {base} would tell: it is not on this machine"
    return (
        f"Memory: {many} about {_size(sum(found.values()))}: {said} ({n_parameters:,} parameters, {how}; micro-batches "
        f"of up to {batch:,} tokens){rest}."
    )


def _say_optimum(config: "Config", found: "Plan", known: "Measured") -> None:
    from pipeline.replay.schedule import n_fresh
    from pipeline.runs import costs

    if not known.generate_seconds or not known.train_seconds:
        typer.echo(
            "Replay ratio: an archive with finished iterations (--archive) says what generating and training cost."
        )
        return
    mu = known.generate_seconds / known.train_seconds
    uses, horizon = costs.best_replay(mu)
    window = config.replay.window_trajectories
    own = "of all iterations" if window == "all" else f"of {window / n_fresh(config):.3g} iterations"
    typer.echo(
        f"Replay ratio: generating a rollout took {known.generate_seconds:.3g} s and training on it once "
        f"{known.train_seconds:.3g} s (medians of {known.n_iterations} iterations): μ = {mu:.3g}. "
        f"Best by arXiv 2604.08706 with α = {costs.ALPHA} and ρ = {costs.RHO}: y* = {uses:.3g} uses of a rollout, "
        f"staleness horizon x* = {horizon:.3g}; this schedule: {found.shown[-1].uses:.3g} uses, a window {own}."
    )


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _size(n_bytes: float) -> str:
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if n_bytes < 999.5:
            break
        n_bytes, unit = n_bytes / 1000, larger
    return f"{n_bytes:,.3g} {unit}" if n_bytes < 999.5 else f"{n_bytes:,.0f} {unit}"
