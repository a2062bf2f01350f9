"""The objectives by name, all with one signature: sums of a batch to its residuals (see bellman.py)."""

from collections.abc import Callable

from reval import bellman
from reval.bellman import Residual, Sums


def tbrm(sums: Sums) -> Residual:
    """TBRM (arXiv 2505.15311): Eq. 2 without V_ref. `value_gap` is V_θ(s₁) itself, so it is not zero at θ = ref."""
    return bellman.compose(sums, value_gap_B=sums.value_B)


OBJECTIVES: dict[str, Callable[[Sums], Residual]] = {"reval": bellman.reval, "tbrm": tbrm}
