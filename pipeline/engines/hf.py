"""The engine that uses transformers' own generation."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.children.worker import Progress
from pipeline.engines.base import COMPLETIONS, installed_version
from schemas.enums import FinishReason


class TransformersEngine:
    """transformers' own generation: it needs no extra package, and is slow."""

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
        # `generate` gives the settings; without this line, others would come from the model's own generation config.
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
