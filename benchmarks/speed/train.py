"""Updates on a CPU: tokens per second compared with transformers and TRL, peak memory, padding.

python -m benchmarks.speed.train [--repeats 5] [--tokens 8192] [--only PART ...]

An update is reval.update.update itself, from rollouts as they are read from a file to the optimizer's step.
plain: transformers' own loss on whole logits, labels on the response tokens, rows padded on the right under the same
budget, in the order drawn or by length; the same weights, tokens, optimizer and clip.
TRL: GRPOTrainer's own step without the generation of completions: its split into batches, its loss, accelerate's
backward, the same optimizer and clip. A batch holds as many rows as fit the budget at the length to which TRL pads all of
them. Its head is written for Triton; on a CPU it uses other code, which scores prompts and padding too.
Tokens are prompt and response tokens without padding. Times are medians; all run in turn, and the first time of each is
not counted.

short: prompts of 4 to 8 tokens, responses of 4 to 20, as in the default recipe. uneven: 16 to 1,024, equally many of each
order of magnitude. even: all 256. small: the arithmetic model; medium: 256 wide, 4 layers, 32,000 tokens.
memory: one rollout of 8,192 tokens, a vocabulary of 150,000, 256 wide, each measurement in its own process.
"""

import argparse
import copy
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import fresh, peak_bytes, say, where
from benchmarks.speed.gpu_train import Step, hidden_only, how, optimizer_of, ours, plain, random_policy, rollouts
from pipeline.inputs import arithmetic
from reval import model as models
from reval.model import Policy
from reval.rollouts import Rollouts
from reval.settings import Settings

CPU = torch.device("cpu")
BUDGET, GROUP = 4096, 8
MIXES, MODELS, PARTS = ("short", "uneven", "even"), ("small", "medium"), ("speed", "memory")
QWEN = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
QWEN |= {"intermediate_size": 768, "max_position_embeddings": 16384}
MEDIUM_VOCABULARY, LARGE_VOCABULARY, LONG = 32_000, 150_000, 8192
PLAIN_COPIES = 4  # of the logits: more than a plain step holds at its peak


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--tokens", type=int, default=8192, help="of an update, about")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--long", type=int, default=LONG, help="tokens of the rollout that memory is measured with")
    options = parser.parse_args(words)
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads", f"transformers {version('transformers')}"
    print(where(*versions, f"load {os.getloadavg()[0]:.1f}"))
    if "speed" in options.only:
        for model in options.models:
            for mix in MIXES:
                speed(model, mix, options.tokens, options.repeats)
    if "memory" in options.only:
        for tied in ("untied", "tied"):
            memory(tied, options.long)


def policy_of(model: str) -> Policy:
    """A policy with random weights."""
    if model == "medium":
        return random_policy({**QWEN, "vocab_size": MEDIUM_VOCABULARY, "tie_word_embeddings": False}, CPU)
    return models.trusted(arithmetic.make_model(arithmetic.make_tokenizer(), 0), "arithmetic")


def mixed(mix: str, n_tokens: int, n_vocabulary: int) -> pa.Table:
    """Rollouts with about this many tokens in total, in whole groups of one prompt."""
    chance = np.random.default_rng(0)
    pairs: list[tuple[int, int]] = []
    while sum(map(sum, pairs)) < n_tokens or len(pairs) % GROUP:
        if mix == "short":
            pairs.append((int(chance.integers(4, 9)), int(chance.integers(4, 21))))
        else:
            n = 256 if mix == "even" else int(np.exp(chance.uniform(np.log(16), np.log(1024))))
            pairs.append((n // 4, n - n // 4))
    return rollouts(*map(list, zip(*pairs, strict=True)), n_vocabulary, chance)


def speed(model: str, mix: str, n_tokens: int, repeats: int) -> None:
    """Tokens per second of an update and its peers, and the padding of each."""
    base = policy_of(model)
    rows, settings = mixed(mix, n_tokens, base.model.config.vocab_size), how(micro_batch_tokens=BUDGET, device="cpu")
    steps: dict[str, Step] = {}
    for name, changes in {"packed": {}, "padded": {"batching": "padded"}}.items():
        policy = copy.deepcopy(base)
        steps[name] = ours(policy, optimizer_of(policy), how(**{**vars(settings), **changes}), rows)
    for name, by_length in {"plain, as drawn": False, "plain, by length": True}.items():
        other = copy.deepcopy(base.model)
        other.set_attn_implementation("sdpa")
        steps[name] = plain(other, optimizer_of(other), settings, rows, by_length)
    with tempfile.TemporaryDirectory(prefix="train-benchmark-") as folder:
        try:
            steps["TRL"] = trl_step(base.model, settings, rows, folder)
        except ImportError as error:
            print(f"no TRL here ({error}): its step is left out")
        seconds, padding = timed(steps, repeats)
    n = sum(Rollouts(rows).n_tokens)
    rate = {name: n / median(found) for name, found in seconds.items()}
    print(f"{model}, {mix}: {len(rows)} rollouts, {n:,} tokens; packed, {rate['packed'] / rate['padded']:.2f} of padded")
    for name, target in {"plain, as drawn": 0.95, "plain, by length": 0.95, "TRL": 1.5}.items():
        if name in rate:
            times = rate["packed"] / rate[name]
            peer = f"{name} {rate[name]:,.0f} tokens/s"
            say(f"{model}, {mix}", f"{rate['packed']:,.0f} tokens/s", peer, times, f"≥ {target}", times >= target)
    for name in ("packed", "padded"):
        others = ", ".join(f"{other} {padding[other]:.0%}" for other in steps if other not in ("packed", "padded"))
        say(f"{model}, {mix}, padding, {name}", f"{padding[name]:.1%}", others, None, "< 5 %", padding[name] < 0.05)


def timed(steps: dict[str, Step], repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each step, in turn, and the share of its batches that is padding; its first time is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    padding: dict[str, float] = {}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            said = step()
            seconds[name].append(time.perf_counter() - began)
            padding[name] = said["n_padding_tokens"] / (said["n_padding_tokens"] + said["n_tokens"])
    return {name: found[1:] for name, found in seconds.items()}, padding


def trl_step(model: Any, settings: Settings, rows: pa.Table, folder: str) -> Step:
    """A step of TRL's GRPOTrainer on the same rollouts.

    Raises:
        ImportError: TRL, or a package it needs, is not installed.
    """
    with warnings.catch_warnings(action="ignore"):
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

    read = Rollouts(rows)
    n, n_tokens = len(rows), sum(read.n_tokens)
    longest = max(map(len, read.prompts)) + max(map(len, read.responses))
    per_batch = next(size for size in range(n, 0, -1) if not n % size and (size * longest <= settings.micro_batch_tokens))
    trainer = GRPOTrainer(
        copy.deepcopy(model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            folder,
            per_device_train_batch_size=per_batch,
            gradient_accumulation_steps=n // per_batch,
            num_generations=GROUP,
            max_completion_length=max(map(len, read.responses)),
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": [""] * n}),
        processing_class=arithmetic.make_tokenizer(),
    )
    inner = trainer.model
    inner.set_attn_implementation("sdpa")
    optimizer = trainer.accelerator.prepare(optimizer_of(inner))
    trainer.current_gradient_accumulation_steps = n // per_batch
    trainer._generate_and_score_completions = lambda _: _as_generated(rows)

    def step() -> dict[str, Any]:
        inner.train()
        for number in range(n // per_batch):
            trainer.accelerator.gradient_state._set_sync_gradients(number + 1 == n // per_batch)
            trainer.training_step(inner, {}, None)
        trainer.accelerator.clip_grad_norm_(inner.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return {"n_tokens": n_tokens, "n_padding_tokens": n * longest - n_tokens}

    return step


def _as_generated(rows: pa.Table) -> dict[str, Any]:
    """The inputs of TRL's trainer after generation: prompts padded on the left, completions on the right."""
    from trl.trainer.utils import pad

    read = Rollouts(rows)
    prompts, responses = ([torch.tensor(ids).long() for ids in lists] for lists in (read.prompts, read.responses))
    response_mask = pad([torch.ones_like(ids) for ids in responses], 0, "right")
    return {
        "prompt_ids": pad(prompts, 0, "left"),
        "prompt_mask": pad([torch.ones_like(ids) for ids in prompts], 0, "left"),
        "completion_ids": pad(responses, 0, "right"),
        "completion_mask": response_mask,
        "advantages": torch.arange(len(rows)) % 2 - 0.5,
        "old_per_token_logps": torch.full(response_mask.shape, -10.0),
        "num_items_in_batch": response_mask.sum(),
    }


def memory(tied: str, n_tokens: int) -> None:
    """Peak memory of a step on one long rollout: ours and without logits, and ours and plain on the longest that fits."""
    peaks = {way: fresh(peak, way, tied, n_tokens)["peak"] / 1e6 for way in ("ours", "hidden only")}
    times = peaks["ours"] / peaks["hidden only"]
    peer = f"hidden states only {peaks['hidden only']:,.0f} MB"
    what = f"memory, {LARGE_VOCABULARY:,} x {n_tokens:,} tokens, {tied}"
    say(what, f"{peaks['ours']:,.0f} MB", peer, times, "≤ 1.3", times <= 1.3)
    n = n_tokens
    while n > 256 and peaks["hidden only"] + PLAIN_COPIES * 4 * LARGE_VOCABULARY * n / 1e6 > _available():
        n //= 2
    mine, theirs = (fresh(peak, way, tied, n)["peak"] / 1e6 for way in ("ours", "plain"))
    what = f"memory, {LARGE_VOCABULARY:,} x {n:,} tokens, {tied}"
    say(what, f"{mine:,.0f} MB", f"plain {theirs:,.0f} MB", mine / theirs)


def _available() -> float:
    """MB of memory that is available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1000


def peak(way: str, tied: str, n_tokens: str) -> dict[str, Any]:
    """Peak memory of a process that makes two steps; AdamW's moments exist from the second step on."""
    policy = random_policy({**QWEN, "vocab_size": LARGE_VOCABULARY, "tie_word_embeddings": tied == "tied"}, CPU)
    rows = rollouts([128], [int(n_tokens) - 128], LARGE_VOCABULARY, np.random.default_rng(0))
    settings, optimizer = how(micro_batch_tokens=int(n_tokens), device="cpu"), optimizer_of(policy)
    if way == "plain":
        policy.model.set_attn_implementation("sdpa")
        step = plain(policy.model, optimizer, settings, rows, by_length=True)
    else:
        step = ours(policy, optimizer, settings, rows)
    began = time.perf_counter()
    with hidden_only() if way == "hidden only" else nullcontext():
        for _ in range(2):
            step()
    return {"peak": peak_bytes(), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main(sys.argv[1:])
