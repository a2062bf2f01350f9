r"""The built-in default: two-digit sums and differences, and a small model that solves two in five of them.

Problems are all (a ± b) with two-digit a and b, split by a keyed digest. The model is an ordinary Qwen2 in an ordinary
Hugging Face folder with a character tokenizer. It is pre-trained on examples of two ways to answer, all of them right:

    37+85= \boxed{122}            at once
    37+85= 12 11 \boxed{122}      units, then tens, without carrying; the answer is 10 · tens + units

Pre-training shows mostly the second way at the beginning and mostly the first way at the end. So the greedy answer is at
once, and right two times in five; one sample in four works the answer out, and is right more often. Reinforcement has to
find that working it out is better. On one machine the same seeds give the same weights, bit for bit.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas import digest
from schemas.enums import Batching, Split

# The name in recipes of the questions and the base policy that are made here. All others come from outside.
EMBEDDED = "arithmetic"
N_HELDOUT = 400
CHARACTERS = "0123456789+-=\\{} boxed"
WORDS = ["<pad>", "<eos>", "<unk>", *dict.fromkeys(CHARACTERS)]

# Measured choices; see benchmarks/LOG.md.
HIDDEN, LAYERS, HEADS, INTERMEDIATE, CONTEXT = 128, 2, 4, 384, 64
BATCH, LEARNING_RATE, WARM_UP, CHECK_EVERY, MAX_STEPS = 128, 1.5e-3, 50, 10, 3000
ADAM_BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = (0.9, 0.98), 0.01, 1.0
# Phase 1 until it solves this multiple of the target, then phase 2 at a share of the learning rate.
FIRST_TARGET, SECOND_RATE = 1.75, 0.2
WORKED_SHARE = (0.90, 0.25)
MAX_GREEDY_WORKED = 0.1  # phase 2 goes on until it answers at once
TYPICAL_STEPS = 450
N_CHECKED = 400

# A problem's token ids, and its two right answers': at once, and worked.
Example = tuple[list[int], tuple[list[int], list[int]]]


def problems(seed: int) -> list[tuple[str, str, Split]]:
    """All problems as (problem, gold answer, split), in a fixed order. No problem is in both splits."""
    found = [
        (f"{a}{sign}{b}=", str(a + b if sign == "+" else a - b))
        for a in range(10, 100)
        for sign in "+-"
        for b in range(10, 100)
    ]
    shuffled = sorted(found, key=lambda problem: digest("arithmetic", seed, problem[0]))
    return [(*problem, Split.HELDOUT if i < N_HELDOUT else Split.TRAIN) for i, problem in enumerate(shuffled)]


def answers(problem: str) -> tuple[str, str]:
    r"""The two right answers in the form that the model learns.

    >>> answers("37-85=")
    (' \\boxed{-48}', ' 2 -5 \\boxed{-48}')
    """
    a, sign, b = problem[:2], problem[2], problem[3:5]
    factor = 1 if sign == "+" else -1
    tens, units = (int(x) + factor * int(y) for x, y in zip(a, b, strict=True))
    at_once = f" \\boxed{{{10 * tens + units}}}"
    return at_once, f" {units} {tens}{at_once}"


def pretrain(
    folder: str, problems_seed: int, seed: int, target_accuracy: float, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Trains the base policy into `folder`, which appears whole or not at all.

    Stops at the first check at which it solves `target_accuracy` of some training problems, greedily and mostly at once.

    Returns:
        accuracy on the held-out problems, steps, and n_parameters.

    Raises:
        RuntimeError: the target was not reached in MAX_STEPS steps.
    """
    import torch

    from reval.batch import collate
    from reval.model import Policy

    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed)
    policy = Policy(model)
    by_split: dict[Split, list[Example]] = {Split.TRAIN: [], Split.HELDOUT: []}
    for problem, _, split in problems(problems_seed):
        at_once, worked = ([*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in answers(problem))
        by_split[split].append((tokenizer(problem)["input_ids"], (at_once, worked)))
    checked, pool = by_split[Split.TRAIN][:N_CHECKED], by_split[Split.TRAIN][N_CHECKED:]

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=ADAM_BETAS, weight_decay=WEIGHT_DECAY)
    phase = 0
    for step in range(1, MAX_STEPS + 1):
        rate = LEARNING_RATE * min(1.0, step / WARM_UP) * (SECOND_RATE if phase else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        drawn = torch.randint(len(pool), (BATCH,), generator=generator).tolist()
        ways = (torch.rand(BATCH, generator=generator) < WORKED_SHARE[phase]).tolist()
        rows = [pool[i][0] for i in drawn], [pool[i][1][way] for i, way in zip(drawn, ways, strict=True)]
        batch = collate(*rows, Batching.PADDED)
        optimizer.zero_grad(set_to_none=True)
        (-policy(batch).logp_N.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        progress(min(step, TYPICAL_STEPS - 1), TYPICAL_STEPS)
        if step % CHECK_EVERY == 0:
            accuracy, worked_share = greedy(model, checked)
            if phase == 0 and accuracy >= FIRST_TARGET * target_accuracy:
                phase = 1
            elif phase == 1 and accuracy >= target_accuracy and worked_share < MAX_GREEDY_WORKED:
                break
    else:
        raise RuntimeError(f"the arithmetic model did not reach {target_accuracy:.0%} in {MAX_STEPS} steps")

    save(model, tokenizer, Path(folder))
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"accuracy": greedy(model, by_split[Split.HELDOUT])[0], "steps": step, "n_parameters": n_parameters}


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a policy's folder, which appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def greedy(model: Any, examples: Sequence[Example]) -> tuple[float, float]:
    """The accuracy of greedy decoding, computed without decoding.

    Greedy decoding gives a response exactly if each of its tokens is the most likely one after those before it. So one
    forward pass for each way to answer is enough.

    Returns:
        the share of problems that get one of their two right answers, and the share that is worked out.
    """
    import torch

    from reval.batch import collate

    solved = torch.zeros(len(examples), dtype=torch.bool)
    for way in (0, 1):
        rows = [prompt for prompt, _ in examples], [right[way] for _, right in examples]
        batch = collate(*rows, Batching.PADDED)
        with torch.no_grad():
            best_N = model(batch.token_ids).logits.flatten(0, 1)[batch.place_N].argmax(-1)
        missed = torch.zeros(len(examples), dtype=torch.bool)
        missed[batch.row_N[best_N != batch.target_N]] = True
        solved |= ~missed
        if way == 0:  # both ways begin with a space; the token after it tells which one it is
            second = batch.first_B + 1
            worked = best_N[second] != batch.target_N[second]
    return solved.float().mean().item(), worked.float().mean().item()


def make_tokenizer() -> Any:
    """One token per character, and <pad>, <eos>, <unk>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def n_parameters() -> int:
    """Number of weights of the model, without making it."""
    attention, mlp, norms = 4 * HIDDEN**2 + 3 * HIDDEN, 3 * HIDDEN * INTERMEDIATE, 2 * HIDDEN
    return 2 * len(WORDS) * HIDDEN + LAYERS * (attention + mlp + norms) + HIDDEN


def make_model(tokenizer: Any, seed: int, **changes: Any) -> Any:
    """The untrained model; `changes` go to its Qwen2Config."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**shape, **changes}, dtype=torch.float32, **ends))
    model.generation_config = GenerationConfig(**ends)
    return model.eval()
