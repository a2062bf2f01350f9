"""What a run reports: a line at the end of each iteration and a table at the end, all read from the archive."""

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.runs.run import Run

CURVE = "SELECT iteration, policy_id, train_reward, heldout_accuracy FROM progress WHERE run_id = '{}' ORDER BY iteration"


def line(run: Run, iteration: int) -> str:
    """One line about an iteration."""
    found = run.query("progress_of", run_id=run.run_id, iteration=iteration).to_pylist()[0]
    seconds = " ".join(
        f"{name.removeprefix('seconds_')} {value:.1f}"  # of each stage, in order, and of the time between stages
        for name, value in found.items()
        if name.startswith("seconds_") and value is not None
    )
    return (
        f"iteration {iteration}/{run.config.iterations}"
        f"  reward {_number(found['train_reward'])}  held-out {_number(found['heldout_accuracy'])}"
        f"  fresh {found['n_fresh']} replayed {found['n_replayed']} age {_number(found['mean_age_iterations'], '.1f')}"
        f"  loss {_number(found['loss'], '.3g')}  s: {seconds}"
    )


def pass_line(run: Run, iteration: int) -> str | None:
    """One line about an iteration's training; None: there was none."""
    found = run.query("training_of", pass_id=run.policy_id(iteration)).to_pylist()
    if not found:
        return None
    of = found[0]
    parts = ", ".join(f"{name} {of[f'{name}_rms']:.2g}" for name in ("value_gap", "log_ratio", "target"))
    said = [
        f"  residual {of['residual_rms']:.3g} ({parts})  KL {_number(of['kl'], '.2g')}  entropy {of['entropy']:.2g}",
        f"gradient {of['grad_norm']:.3g}, {of['clipped_share']:.0%} of steps clipped",
        f"{of['tokens_per_second']:,.0f} tokens/s  {of['peak_memory_bytes'] / 1e9:.1f} GB",
    ]
    if of["clipped_token_share"] is not None:
        said.append(f"{of['clipped_token_share']:.1%} of tokens clipped")
    if of["flop_utilisation"] is not None:
        said.append(f"{of['flop_utilisation']:.0%} of the device's operations")
    return "  ".join(said)


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def curve(store: Store, run_id: str) -> tuple[str, pa.Table]:
    """The SQL for a run's learning curve, and its answer."""
    statement = CURVE.format(run_id)
    return statement, db.ask(store, statement).read_all()
