"""Runs an engine in a process of its own. On a CPU it stays up for a whole run and takes new weights in place."""

import os
from collections.abc import Callable
from typing import Any

from pipeline.children.worker import Progress, serve


def main() -> None:
    from pipeline.engines.base import Engine
    from pipeline.engines.hf import TransformersEngine
    from pipeline.engines.vllm import VllmEngine

    engine: Engine
    kinds: dict[str, Callable[..., Engine]] = {"vllm": VllmEngine, "transformers": TransformersEngine}

    def start(name: str, options: dict[str, Any]) -> dict[str, Any]:
        nonlocal engine
        if name == "vllm":
            _settle_vllm()
        engine = kinds[name](**options)
        return {}

    def load(location: str) -> dict[str, Any]:
        engine.load(location)
        return {"dtype": engine.dtype, "context_tokens": engine.context_tokens}

    def generate(table: Any, progress: Progress, **how: Any) -> Any:
        return engine.generate(table["prompt_token_ids"].to_pylist(), progress=progress, **how)

    serve({"start": start, "load": load, "generate": generate})


def _settle_vllm() -> None:
    """Without a GPU, vLLM's compiling of two small log-prob functions takes ten seconds and a compiler, for nothing.

    Has to come before vLLM is imported.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


if __name__ == "__main__":
    main()
