r"""A task of many steps: sums of six-digit numbers, worked out column by column from the right.

    483927+251866=  7+6+0=13 2+6+1=09 9+8+0=17 3+1+1=05 8+5+0=13 4+2+1=07 \boxed{735793}

A step is digit + digit + carry = sum. One wrong token of 69 makes the answer wrong, and the reward does not say which.
"""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

from pipeline.inputs import arithmetic

N_DIGITS, CONTEXT = 6, 96
N_TRAIN, N_HELDOUT = 8000, 400
BATCH, LEARNING_RATE, WARM_UP = 96, 2e-3, 50
TARGET, TYPICAL_STEPS = 0.2, 300


def problem(chance: Random) -> str:
    a, b = (chance.randrange(10 ** (N_DIGITS - 1), 10**N_DIGITS) for _ in range(2))
    return f"{a}+{b}="


def answer(problem: str) -> str:
    r"""The right answer in the form that the model learns.

    >>> answer("17+85=")
    '7+5+0=12 1+8+1=10 \\boxed{102}'
    """
    a, b = problem[:-1].split("+")
    carry, steps = 0, []
    for x, y in zip(reversed(a), reversed(b), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}+{carry}={total:02} ")
        carry = total // 10
    return "".join(steps) + f"\\boxed{{{int(a) + int(b)}}}"


def questions(folder: Path) -> dict[str, Path]:
    """Files to import, by split. No problem is in both splits."""
    chance = Random("questions")
    problems = list(dict.fromkeys(problem(chance) for _ in range(N_TRAIN + N_HELDOUT)))
    files = {}
    for split, part in (("heldout", problems[:N_HELDOUT]), ("train", problems[N_HELDOUT:])):
        rows = [{"problem": text, "answer": str(sum(map(int, text[:-1].split("+"))))} for text in part]
        files[split] = folder / f"columns-{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def pretrain(folder: Path, progress: Callable[[int, int], None]) -> float:
    """Trains a model on right answers alone into `folder`, until a sample is right about TARGET of the time.

    Returns:
        the probability, averaged over the last steps, that a sampled answer to a new problem is right word for word.
    """
    import torch

    from reval.batch import collate
    from reval.model import Policy, sum_by_trajectory
    from schemas.enums import Batching

    tokenizer = arithmetic.make_tokenizer()
    tokenizer.model_max_length = CONTEXT
    model = arithmetic.make_model(tokenizer, 0, max_position_embeddings=CONTEXT)
    policy, chance = Policy(model), Random("worked examples")
    optimizer = torch.optim.AdamW(model.parameters(), betas=arithmetic.ADAM_BETAS, weight_decay=arithmetic.WEIGHT_DECAY)
    right = 0.0
    for step in count(1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP)
        asked = [problem(chance) for _ in range(BATCH)]
        ids = tokenizer([answer(text) for text in asked])["input_ids"]
        batch = collate(tokenizer(asked)["input_ids"], [[*row, tokenizer.eos_token_id] for row in ids], Batching.PADDED)
        logp_N = policy(batch).logp_N
        optimizer.zero_grad(set_to_none=True)
        (-logp_N.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arithmetic.MAX_GRAD_NORM)
        optimizer.step()
        # Problems are new in every step, so they also measure how good the model is.
        right += 0.2 * (float(sum_by_trajectory(logp_N.detach(), batch).exp().mean()) - right)
        progress(min(step, TYPICAL_STEPS - 1), TYPICAL_STEPS)
        if right > TARGET:
            break
    arithmetic.save(model, tokenizer, folder)
    return right
