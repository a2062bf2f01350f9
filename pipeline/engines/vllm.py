"""The engine that uses vLLM."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.children.worker import Progress
from pipeline.engines.base import COMPLETIONS, installed_version
from schemas import UserError
from schemas.enums import FinishReason


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
                logprobs_mode="processed_logprobs",  # of the sampled distribution, temperature included
                worker_extension_cls="pipeline.engines.vllm_worker.PolicyLoader",
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

        # Seed the engine, not the request: on a CPU a seed per request is slow, and fails with chunked prefill.
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
    """The part of tqdm that vLLM uses: it iterates over the requests, and counts them as they end."""

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
