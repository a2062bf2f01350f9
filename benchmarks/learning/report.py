"""Reports the saved results of `benchmarks.learning`: tables, ratios to GRPO with intervals, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl

from benchmarks.learning import results
from benchmarks.learning.arms import TASKS

PEER = "grpo-fresh"
N_BOOTSTRAP, LEVEL = 10_000, 0.95
SHOWN = (
    *("grpo-fresh", "grpo-fresh-k4", "grpo-fifo-k4", "grpo-fresh-k8", "grpo-fifo-k8"),
    *("reval-fresh-k4", "reval-fifo-k4", "reval-own-k4", "reval-fresh-k8", "reval-fifo-k8"),
    *("reval-own-k8", "reval-half-k8"),
)


def opened(folder: Path | None = None) -> duckdb.DuckDBPyConnection:
    """The saved rows, and the views over them."""
    connection = duckdb.connect()
    for name in results.SAVED:
        connection.register(name, results.saved(name, folder))
    tasks = [
        {"task": name, "tuned_on": task.tuned_on or name, "iterations": task.iterations} for name, task in TASKS.items()
    ]
    wanted = [{"task": name, "threshold": reach} for name, task in TASKS.items() for reach in task.reach]
    connection.register("tasks", pl.DataFrame(tasks).to_arrow()).register("wanted", pl.DataFrame(wanted).to_arrow())
    for view in ("tuned", "accuracies"):
        connection.execute(f"CREATE VIEW {view} AS {results.sql(view)}")
    return connection


def ask(connection: duckdb.DuckDBPyConnection, name: str, **inputs: Any) -> pl.DataFrame:
    return connection.sql(results.sql(name), params=inputs).pl()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median over seeds and its bootstrap interval (percentile, 10,000 resamples, seeded); ∞: not reached."""
    drawn = _resampled(values, np.random.default_rng(0))
    return float(np.median(values)), *_middle(drawn)


def ratio(ours: Sequence[float], peers: Sequence[float]) -> tuple[float, float, float]:
    """How many times as many rollouts the peer needs: ratio of medians over seeds, with its bootstrap interval.

    ∞: the peer's median did not reach the accuracy; 0: ours did not; NaN: neither did.
    """
    chance = np.random.default_rng(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.median(peers) / np.median(ours)
        drawn = _resampled(peers, chance) / _resampled(ours, chance)
    drawn = drawn[~np.isnan(drawn)]
    return (float(found), *_middle(drawn)) if len(drawn) else (np.nan, np.nan, np.nan)


def _resampled(values: Sequence[float], chance: np.random.Generator) -> np.ndarray:
    """Medians of resamples."""
    found = np.asarray(values, float)
    return np.median(found[chance.integers(len(found), size=(N_BOOTSTRAP, len(found)))], axis=1)


def _middle(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)


def table(task: str, runs: pl.DataFrame, reached: pl.DataFrame) -> list[str]:
    """A task's table in Markdown: one row per arm, best area first; ×: the peer's rollouts divided by the arm's."""
    levels = TASKS[task].reach
    titles = ["arm", "lr, β", "seeds", *(f"rollouts to {level:g}" for level in levels)]
    titles += [
        *(f"{PEER} needs ×, to {level:g}" for level in levels),
        "final",
        "area",
        "updates",
        "s generating, training",
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

    def needed(arm: str, level: float) -> list[float]:
        mine = reached.filter((pl.col("arm") == arm) & (pl.col("threshold") == level))
        return mine["n_generated"].fill_null(np.inf).to_list()

    order = runs.group_by("arm").agg(pl.col("area").median()).sort("area", descending=True)["arm"].to_list()
    for arm in order:
        mine = runs.filter(pl.col("arm") == arm)
        rate, beta = mine["learning_rate"][0], mine["beta"][0]
        has_beta = not arm.startswith(("grpo", "reinforce"))
        cells = [arm, f"{rate:.3g}" + (f", {beta:.2g}" if has_beta else ""), str(len(mine))]
        cells += [said(interval(needed(arm, level)), "{:,.0f}") for level in levels]
        for level in levels:
            peers = needed(PEER, level)
            times = ratio(needed(arm, level), peers) if peers and arm != PEER else (np.nan,)
            cells.append("" if np.isnan(times[0]) else said(times, "{:.2f}", infinite="∞"))
        cells += [said(interval(mine[name].to_list()), "{:.3f}") for name in ("final_accuracy", "area")]
        cells.append(f"{mine['n_updates'][0]:,}")
        cells.append(f"{mine['seconds_generate'].median():.0f}, {mine['seconds_train'].median():.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def said(found: tuple[float, float, float], form: str, infinite: str = "never") -> str:
    """A number with its interval."""
    words = [infinite if np.isinf(value) or np.isnan(value) else form.format(value) for value in found]
    return words[0] if words == [words[0]] * 3 else f"{words[0]} [{words[1]}, {words[2]}]"


def pictures(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Curves of each task with the spread over seeds, and residuals by age."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []

    def draw(name: str, rows: pl.DataFrame, x: str, y: str, **words: str) -> None:
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        for (arm,), line in rows.group_by("arm", maintain_order=True):
            axes.plot(line[x], line[y], label=arm)
            if "lowest" in line.columns:
                axes.fill_between(line[x], line["lowest"], line["highest"], alpha=0.12)
        axes.set(**words)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        made.append(folder / f"{name}.png")
        figure.savefig(made[-1], dpi=110)
        pyplot.close(figure)

    for task in connection.sql("SELECT DISTINCT task FROM accuracies ORDER BY 1").pl()["task"]:
        rows = ask(connection, "curve_figure", task=task, arms=SHOWN)
        if len(rows):
            words = {"title": task, "xlabel": "rollouts generated", "ylabel": "right samples"}
            draw(f"curves-{task}", rows, "n_generated", "accuracy", **words)
    ages = ask(connection, "age_figure", task="arithmetic").filter(pl.len().over("arm") > 1)
    if len(ages):
        words = {
            "title": "arithmetic",
            "xlabel": "age of a row, iterations",
            "ylabel": "residual, nats (root mean square)",
        }
        draw("ages", ages, "age_iterations", "residual_rms", **words)
    return made


def report(folder: Path | None = None, draw: bool = True) -> None:
    """Prints every task's table from the rows in a folder, by default the saved ones; draws the pictures beside them."""
    connection = opened(folder)
    runs, reached = ask(connection, "runs"), ask(connection, "reached")
    for task in TASKS:
        of_task = [rows.filter(pl.col("task") == task) for rows in (runs, reached)]
        if len(of_task[0]):
            print(f"\n{task}\n", *table(task, *of_task), sep="\n")
    if draw:
        print("\n" + "\n".join(f"drawn: {path}" for path in pictures(connection, folder or results.SAVED_IN)))
