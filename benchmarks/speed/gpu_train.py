"""Updates of a 1.5B policy on a GPU: speed and memory, compared with a plain step of transformers.

python -m benchmarks.speed.gpu_train [--tiny] [--repeats 3]

It needs torch, transformers, accelerate, pyarrow and, of this project, `reval` and `schemas`; a copy of the tree will do.
Weights are random, in the shape of R1-Distill-Qwen-1.5B; nothing is downloaded. Responses are 1,024 to 8,192 tokens.

An update is reval.update.update itself. The plain step is transformers' own loss on whole logits, with labels on the
response tokens, over rows put together by length and padded on the right, with the same budget, optimizer and clip;
nothing of it is compiled. The time for compiling is not included anywhere.
Tokens are prompt and response tokens without padding. Times are medians; ours and the peer run in turn, and the first
time of each is left out.
Hidden only: the same update with `hidden · weight[target]` as log-prob, so no logits are computed.
`--tiny` runs everything on any machine, at a size too small for meaningful numbers.
"""

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reval import head
from reval import model as models
from reval.head import Scores
from reval.model import Policy
from reval.objectives import objective
from reval.parallel import World
from reval.rollouts import Pass, Rollouts
from reval.settings import Settings
from reval.update import update

R1_DISTILL_QWEN_1_5B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
TINY = {**R1_DISTILL_QWEN_1_5B, "vocab_size": 512, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2}
ROWS, SHORTEST, LONGEST, PROMPT = 32, 1024, 8192, 128
IGNORED = -100  # transformers' label of a token that is not learned

# The part of an operation, by a word in its name or in the name of an operation around it; the first match counts.
PARTS = {
    "head": ("_Scores",),
    "optimizer": ("Optimizer.", "adam"),
    "clip": ("clip_grad", "norm.", "_foreach_norm", "linalg_vector_norm"),
    "attention": ("attention", "attn"),
    "matmul": ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear"),
    "copies": ("copy", "aten::cat", "aten::to", "index", "gather", "scatter", "memcpy", "memset", "zero_", "fill_"),
}

Step = Callable[[], dict[str, Any]]  # the figures of a step: at least n_tokens and n_padding_tokens


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.gpu_train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the same code at a size that says nothing")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    options = parser.parse_args(words)
    device = models.pick_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{name} · torch {torch.__version__}, transformers {version('transformers')}")
    shape, scale = (TINY, 64) if options.tiny else (R1_DISTILL_QWEN_1_5B, 1)
    policy = random_policy(shape, device)
    print(f"{policy.n_parameters:,} weights, {'packed' if policy.packs else 'PADDED'}")
    chance = np.random.default_rng(0)
    n_response = np.exp(chance.uniform(np.log(SHORTEST // scale), np.log(LONGEST // scale), ROWS)).astype(int)
    rows = rollouts([PROMPT // scale] * ROWS, n_response.tolist(), shape["vocab_size"], chance)
    one = rollouts([PROMPT // scale], [(LONGEST - PROMPT) // scale], shape["vocab_size"], chance)
    for checkpointing in ("none", "layers"):
        policy.compute_again(checkpointing == "layers")
        settings = how(precision="bfloat16", checkpointing=checkpointing, micro_batch_tokens=16384 // scale)
        speed(policy, settings, rows, options.repeats)
        memory(policy, settings, one)
    policy.compute_again(False)
    where_it_goes(ours(policy, optimizer_of(policy), settings, rows), device)


def random_policy(shape: dict[str, Any], device: torch.device) -> Policy:
    """A Qwen2 with random weights, as if loaded by the trainer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with device:
        model = Qwen2ForCausalLM(Qwen2Config(**shape, dtype=torch.float32)).eval()
    return models.trusted(model, "random")


def how(**changes: Any) -> Settings:
    """Settings of a pass without a folder."""
    nowhere = {"policy": "", "optimizer": None, "policy_out": "", "optimizer_out": ""}
    return Settings(**{**nowhere, "objective": "reval", "beta": 1.0, "learning_rate": 1e-6, **changes})


def optimizer_of(module: torch.nn.Module) -> torch.optim.Optimizer:
    """The trainer's optimizer."""
    return torch.optim.AdamW(module.parameters(), lr=1e-6, betas=(0.9, 0.999), weight_decay=0.0, fused=True)


def rollouts(
    n_prompt: Sequence[int], n_response: Sequence[int], n_vocabulary: int, chance: np.random.Generator
) -> pa.Table:
    """Rollouts of given lengths, and random tokens."""

    def tokens(n_B: Sequence[int]) -> pa.Array:
        ids = pa.array(chance.integers(3, n_vocabulary, sum(n_B), dtype=np.int32))
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *n_B]), pa.int32()), ids)

    n = len(n_prompt)
    return pa.table(
        {
            "trajectory_id": [f"t{row}" for row in range(n)],
            "prompt_token_ids": tokens(n_prompt),
            "response_token_ids": tokens(n_response),
            "ref_logprob_sum": pa.array(np.full(n, -1.0)),
            "ref_value": pa.array(np.full(n, 10.0)),
        }
    )


def ours(policy: Policy, optimizer: torch.optim.Optimizer, settings: Settings, rows: pa.Table) -> Step:
    """An update, from the rollouts as they are read from a file; it returns its figures."""
    n, world = len(rows), World(next(policy.parameters()).device)
    draws = pa.table(
        {
            **{"update": np.zeros(n, int), "slot": np.arange(n), "trajectory_id": rows["trajectory_id"]},
            **{"weight": np.ones(n), "reward": np.arange(n) % 2.0, "baseline": np.full(n, 0.5)},
        }
    )
    chosen = objective(settings.objective, clip_low=settings.clip_low, clip_high=settings.clip_high)

    def step() -> dict[str, Any]:
        the_pass = Pass(Path(), settings, draws, Rollouts(rows), "")
        return update(world, policy, optimizer, chosen, the_pass, draws).step

    return step


def under_budget(n_tokens: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    """Groups of rows in a given order, each with as many rows side by side as fit the budget with padding."""
    groups: list[list[int]] = []
    for row in order:
        if groups and (len(groups[-1]) + 1) * max(n_tokens[i] for i in [*groups[-1], row]) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def plain(model: Any, optimizer: torch.optim.Optimizer, settings: Settings, rows: pa.Table, by_length: bool) -> Step:
    """A step on the mean cross-entropy of the response tokens, computed by transformers from whole logits."""
    device = next(model.parameters()).device
    dtype = models.DTYPES[settings.precision]  # type: ignore[index]

    def step() -> dict[str, Any]:
        read = Rollouts(rows)
        prompts, responses, n_tokens = read.prompts, read.responses, read.n_tokens
        order = sorted(range(len(n_tokens)), key=lambda row: -n_tokens[row]) if by_length else range(len(n_tokens))
        n_response, n_places = sum(map(len, responses)), 0
        for group in under_budget(n_tokens, order, settings.micro_batch_tokens):
            ids = [torch.from_numpy(np.concatenate([prompts[i], responses[i]])).long() for i in group]
            input_ids = pad_sequence(ids, batch_first=True)
            mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
            labels = input_ids.masked_fill(mask == 0, IGNORED)
            for place, i in enumerate(group):
                labels[place, : len(prompts[i])] = IGNORED
            given = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
            there = {name: tensor.to(device) for name, tensor in given.items()}
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(**there, use_cache=False, num_items_in_batch=n_response).loss
            loss.backward()
            n_places += input_ids.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"n_tokens": sum(n_tokens), "n_padding_tokens": n_places - sum(n_tokens)}

    return step


@contextmanager
def own_attention(policy: Policy) -> Iterator[None]:
    """The policy's model with transformers' sdpa."""
    before = policy.model.config._attn_implementation
    policy.model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        policy.model.set_attn_implementation(before)


@contextmanager
def hidden_only() -> Iterator[None]:
    """No logits: a log-prob is hidden · weight[target], so the weight still gets a gradient."""

    def scores(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, first_B: Tensor, **more: Any) -> Scores:
        logp_N = torch.linalg.vecdot(hidden_ND, weight_VD[target_N].to(hidden_ND.dtype)).float()
        return Scores(logp_N, logp_N[first_B], torch.zeros_like(logp_N))

    before, head.scores = head.scores, scores
    try:
        yield
    finally:
        head.scores = before


def timed(steps: dict[str, Step], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step, in turn; its first time is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: found[1:] for name, found in seconds.items()}


def speed(policy: Policy, settings: Settings, rows: pa.Table, repeats: int) -> None:
    """Tokens per second of updates, and of the plain step if it fits into memory."""
    free()
    device = next(policy.parameters()).device
    optimizer, said = optimizer_of(policy), []
    mine, theirs = ours(policy, optimizer, settings, rows), plain(policy.model, optimizer, settings, rows, by_length=True)

    def peer() -> None:
        with own_attention(policy), torch.compiler.set_stance("force_eager"):
            theirs()

    what = f"checkpointing {settings.checkpointing}"
    try:
        found = timed({"ours": lambda: said.append(mine())}, repeats, device)
    except torch.OutOfMemoryError:
        policy.zero_grad()  # frees the gradients it had so far
        print(f"{what}: an update does not fit")
        return
    n, last = said[-1]["n_tokens"], said[-1]
    mfu = [step["flop_utilisation"] for step in said[1:] if step["flop_utilisation"]]
    print(
        f"{what}: {n:,} tokens, {n / median(found['ours']):,.0f} tokens/s, "
        f"model FLOP utilisation {f'{median(mfu):.3f}' if mfu else 'unknown'}, "
        f"peak {last['peak_memory_bytes'] / 1e9:.2f} GB, padding {last['n_padding_tokens'] / n:.1%}"
    )
    try:
        found = timed({"ours": mine, "plain": peer}, repeats, device)
    except torch.OutOfMemoryError:
        policy.zero_grad()
        print(f"{what}: the plain step does not fit")
        return
    rate = {name: n / median(seconds) for name, seconds in found.items()}
    print(
        f"{what}: ours {rate['ours']:,.0f} tokens/s, plain step {rate['plain']:,.0f}: "
        f"{rate['ours'] / rate['plain']:.2f} (≥ 0.95)"
    )


def memory(policy: Policy, settings: Settings, rows: pa.Table) -> None:
    """Peak memory of an update on one long rollout, divided by the peak without logits."""
    peaks = {}
    for name, way in (("ours", nullcontext()), ("hidden", hidden_only())):
        step = ours(policy, optimizer_of(policy), settings, rows)
        with way:
            for _ in range(2):  # AdamW's moments exist from the second step on
                free()
                peaks[name] = step()["peak_memory_bytes"] / 1e9
        del step
    n = sum(Rollouts(rows).n_tokens)
    print(
        f"checkpointing {settings.checkpointing}, one rollout of {n:,} tokens: peak "
        f"{peaks['ours']:.2f} GB, hidden only {peaks['hidden']:.2f} GB: {peaks['ours'] / peaks['hidden']:.2f} (≤ 1.3)"
    )


def free() -> None:
    """Frees memory that is no longer used, and starts a new measurement of the peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def part_of(event: Any) -> str:
    """The part that an operation of a profile belongs to."""
    names: list[str] = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return next(
        (part for part, found in PARTS.items() if any(word in name for word in found for name in names)), "elementwise"
    )


def where_it_goes(step: Step, device: torch.device) -> None:
    """Shares of an update's time by part, and the operations that take the most time."""
    from torch.profiler import ProfilerActivity, profile

    step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        step()
    which = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CPU:
            spent[part_of(event)] += getattr(event, which)
    total = sum(spent.values()) or 1
    print(", ".join(f"{part} {share / total:.0%}" for part, share in spent.most_common()))
    print(found.key_averages().table(sort_by=which, row_limit=15, max_name_column_width=40))


if __name__ == "__main__":
    main(sys.argv[1:])
