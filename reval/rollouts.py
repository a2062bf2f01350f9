"""Reads the folder of a pass: settings, draws, and the drawn rollouts.

pass.json          `Settings` (reval/settings.py)
draws.parquet      update, slot, trajectory_id, weight, reward, baseline, and for grpo deviation
rollouts.parquet   trajectory_id, prompt_token_ids, response_token_ids, ref_logprob_sum, ref_value, and for grpo
                   behaviour_logprobs, for tba prompt_id
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from reval.settings import Settings
from schemas import UserError

FILES = ("pass.json", "draws.parquet", "rollouts.parquet")


@dataclass(frozen=True)
class Pass:
    """The contents of a pass's folder."""

    folder: Path
    settings: Settings
    draws: pa.Table
    rollouts: "Rollouts"
    inputs: str  # digest of the three files; a checkpoint with another digest does not belong to this pass

    @cached_property
    def updates(self) -> list[pa.Table]:
        """The draws of each update, in order."""
        numbers = self.draws["update"].to_pylist()
        starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
        return [self.draws.slice(a, b - a) for a, b in pairwise([*starts, len(numbers)])]

    def path(self, name: str) -> Path:
        return Path(os.path.normpath(self.folder / name))

    @property
    def policy(self) -> str:
        """The policy's folder, or its name on the hub."""
        path = self.path(self.settings.policy)
        return str(path) if path.is_dir() else self.settings.policy


def read(folder: Path) -> Pass:
    """Reads a pass's folder.

    Raises:
        UserError: it is not a folder of a pass.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no folder of a training pass: there is no {missing[0]} in it")
    texts = [(folder / name).read_bytes() for name in FILES]
    given = json.loads(texts[0])
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted({*given} - known):
        raise UserError(f"{folder / FILES[0]}: unknown setting {unknown[0]}; known: {', '.join(sorted(known))}")
    try:
        settings = Settings(**given)
    except TypeError as error:
        raise UserError(f"{folder / FILES[0]}: {str(error).partition(' ')[2]}") from None
    draws = pq.read_table(folder / FILES[1]).sort_by([("update", "ascending"), ("slot", "ascending")])
    rollouts = Rollouts(pq.read_table(folder / FILES[2]))
    digest = hashlib.sha256(b"".join(hashlib.sha256(text).digest() for text in texts)).hexdigest()
    return Pass(folder, settings, draws, rollouts, digest)


class Rollouts:
    """Token ids and sums of rollouts, by row."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.prompts = _lists(table["prompt_token_ids"])
        self.responses = _lists(table["response_token_ids"])
        self.n_tokens = [len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def behaviour(self) -> list[np.ndarray]:
        """Log-probs of response tokens under the policy that generated them.

        Raises:
            UserError: a rollout has none, or they are at another temperature than 1; the trainer scores at 1.
        """
        if "behaviour_logprobs" not in self.table.column_names or self.table["behaviour_logprobs"].null_count:
            raise UserError(
                "objective grpo: a drawn rollout has no log-probs of its own policy, which it is a ratio to; "
                "choose another objective, or draw from rollouts that have them"
            )
        if "temperature" in self.table.column_names and (
            others := {t for t in self.table["temperature"].to_pylist() if t is not None} - {1.0}
        ):
            raise UserError(
                f"objective grpo: a drawn rollout was sampled at temperature {min(others)}, and so are its log-probs; "
                "its ratio wants them at 1: choose another objective, or draw from rollouts of temperature 1"
            )
        return _lists(self.table["behaviour_logprobs"])

    @cached_property
    def prompt_numbers(self) -> Tensor:
        """A number for each rollout, the same for those that answer the same prompt."""
        names = self.table["prompt_id"].combine_chunks().dictionary_encode()
        return torch.from_numpy(names.indices.to_numpy().astype("int64"))

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table["trajectory_id"].to_pylist())}

    def rows(self, names: Sequence[str]) -> Tensor:
        """The rows of given trajectories.

        Raises:
            UserError: one is not there.
        """
        try:
            return torch.tensor([self.row_of[name] for name in names], dtype=torch.long)
        except KeyError as error:
            raise UserError(f"draws.parquet: trajectory {error.args[0]} is not in rollouts.parquet") from None


def column(rows: pa.Table, name: str) -> Tensor:
    """A numeric column as float64."""
    return torch.from_numpy(rows[name].to_numpy().astype("float64"))


def _lists(rows: pa.ChunkedArray) -> list[np.ndarray]:
    """A column of lists as one array per row; the arrays share the column's memory."""
    return [part for chunk in rows.chunks for part in _cut(chunk)]


def _cut(chunk: pa.Array) -> Iterator[np.ndarray]:
    values, ends = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
    yield from (values[a:b] for a, b in pairwise(ends.tolist()))
