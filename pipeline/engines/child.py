"""Runs an engine in a process of its own. On a CPU it keeps running for a whole run and loads new weights in place."""

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
    """Switches compilation off if there is no GPU: vLLM would compile two small log-prob functions, which takes ten
    seconds, needs a compiler and saves no time.

    Must be called before vLLM is imported.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


if __name__ == "__main__":
    main()
