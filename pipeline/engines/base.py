"""The interface of an engine: it gets prompts as token ids and returns responses as token ids.

An engine runs in a process of its own (child.py); `EngineProcess` is the same interface in the parent process.
"""

import json
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.children.worker import Progress, Worker
from schemas import UserError

COMPLETIONS = pa.schema(
    [
        pa.field("prompt_index", pa.int64()),
        pa.field("sample_index", pa.int64()),
        pa.field("response_token_ids", pa.list_(pa.int32())),
        pa.field("behaviour_logprobs", pa.list_(pa.float32())),
        pa.field("finish_reason", pa.string()),
    ]
)


class Engine(Protocol):
    """Generates from one policy at a time.

    `dtype` is the type of its weights; it limits how closely its log-probs can agree with the trainer's.
    `context_tokens` is the largest number of prompt and response tokens together, known once a policy is loaded.
    """

    name: str
    version: str
    dtype: str
    context_tokens: int

    def load(self, location: str) -> None:
        """Loads a policy's weights, in place if the present ones have the same shape, and clears cached states."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        progress: Progress,
    ) -> pa.Table:
        """`n` responses to each prompt, as COMPLETIONS ordered by prompt and sample.

        Temperature 0 is greedy and needs n = 1. Log-probs are those of the distribution that was sampled from; for greedy
        those of temperature 1. The same call gives the same tokens again on one CPU machine; elsewhere it may not.
        """


class EngineProcess:
    """An engine in a child process, started by the first `load`."""

    def __init__(self, name: str, *, log: Path | None, **options: Any) -> None:
        """`options` go to the engine's constructor.

        Raises:
            UserError: the engine's package is not installed.
        """
        self.name = name
        self.version = installed_version(name)
        self.dtype, self.context_tokens = "", 0
        self._log, self._options = log, options
        self._worker: Worker | None = None
        self._shape: dict[str, Any] = {}

    def load(self, location: str) -> None:
        # In place only if the shape is the same: of another shape, vLLM would load what fits, without an error.
        shape = _shape(location)
        if shape != self._shape:
            self.close()
            self._shape = shape
        if self._worker is None:
            level = "WARNING" if self._log else "INFO"
            environment = {"VLLM_LOGGING_LEVEL": level, **ENVIRONMENT}
            self._worker = Worker("pipeline.engines.child", log=self._log, environment=environment)
            self._worker.call("start", name=self.name, options=self._options)
        loaded, _ = self._worker.call("load", location=location)
        self.dtype, self.context_tokens = loaded["dtype"], loaded["context_tokens"]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        progress: Progress,
    ) -> pa.Table:
        assert self._worker is not None, "load a policy first"
        table = pa.table({"prompt_token_ids": pa.array(prompts, pa.list_(pa.int32()))})
        _, completions = self._worker.call(
            "generate", table, progress=progress, n=n, temperature=temperature, max_tokens=max_tokens, seed=seed
        )
        assert completions is not None
        return completions

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _shape(location: str) -> dict[str, Any]:
    """The settings of a policy's architecture, from its config.json.

    Raises:
        UserError: config.json cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads((Path(location) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"policy {location}: its config.json cannot be read ({error})") from None
    return {key: value for key, value in found.items() if key not in ("transformers_version", "dtype", "torch_dtype")}


# vLLM reads these when it is imported.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in the child itself: one process less, and seconds faster
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
    "TOKENIZERS_PARALLELISM": "false",
}


def installed_version(engine: str) -> str:
    """The version of an engine's package.

    Raises:
        UserError: the package is not installed; the message names the other engine.
    """
    for package in {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}[engine]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise UserError(
        f"engine {engine} is not installed; install reval[cpu] or reval[cuda], or use --set runtime.engine=transformers"
    )
