"""The embedded default: two-digit sums and differences, and a small model that half knows them.

Problems are all (a ± b) with two-digit a and b, split by a keyed digest. The model is an ordinary Qwen2 in an ordinary
Hugging Face folder with a character tokenizer, pre-trained on worked examples until it solves about `target_accuracy`
of the held-out problems greedily. Everything follows from the seeds: on one machine the same weights, bit for bit.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas import digest
from schemas.enums import Split

N_HELDOUT = 400
CHARACTERS = "0123456789+-=\\{} boxed"

# Measured choices; see benchmarks/LOG.md.
HIDDEN, LAYERS, HEADS, INTERMEDIATE, CONTEXT = 128, 3, 4, 384, 64
BATCH, LEARNING_RATE, CHECK_EVERY, MAX_STEPS = 256, 2e-3, 50, 4000


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


def worked(answer: str) -> str:
    """A worked answer as the model is taught to write it."""
    return f" \\boxed{{{answer}}}"


def pretrain(
    folder: str, problems_seed: int, seed: int, target_accuracy: float, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Trains the base policy into `folder`.

    Stops at the first check at which it solves `target_accuracy` of the held-out problems greedily.

    Returns:
        accuracy on the held-out problems, steps, and n_parameters.

    Raises:
        RuntimeError: MAX_STEPS went by without reaching it.
    """
    import torch

    from reval.batch import collate
    from reval.model import score

    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())

    def encode(split: Split) -> list[tuple[list[int], list[int]]]:
        chosen = [(problem, answer) for problem, answer, part in problems(problems_seed) if part == split]
        return [
            (tokenizer(problem)["input_ids"], [*tokenizer(worked(answer))["input_ids"], tokenizer.eos_token_id])
            for problem, answer in chosen
        ]

    examples, heldout = encode(Split.TRAIN), encode(Split.HELDOUT)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(1, MAX_STEPS + 1):
        chosen = torch.randint(len(examples), (BATCH,), generator=generator).tolist()
        batch = collate(*zip(*(examples[i] for i in chosen), strict=True))
        optimizer.zero_grad(set_to_none=True)
        (-score(model, batch).logp_N.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == 0:
            accuracy = greedy_accuracy(model, heldout)
            # Time left is not known; the share of the way is.
            progress(int(100 * min(1.0, accuracy / max(target_accuracy, 1e-9))), 100)
            if accuracy >= target_accuracy:
                break
    else:
        raise RuntimeError(
            f"the arithmetic model solves {accuracy:.0%} after {MAX_STEPS} steps, not {target_accuracy:.0%}"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"accuracy": accuracy, "steps": step, "n_parameters": n_parameters}


def greedy_accuracy(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> float:
    """Share of examples whose response greedy decoding would reproduce.

    It does if and only if each of its tokens is the most likely one after those before it, so one forward pass tells.
    """
    import torch

    from reval.batch import collate

    batch = collate(*zip(*examples, strict=True))
    with torch.no_grad():
        best_BT = model(batch.token_ids_BT).logits.argmax(-1)
    missed = batch.row_N[best_BT[batch.row_N, batch.position_N] != batch.target_N]
    return 1 - len(missed.unique()) / len(examples)


def make_tokenizer() -> Any:
    """One token a character, and <pad>, <eos>, <unk>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *dict.fromkeys(CHARACTERS)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
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
        "tie_word_embeddings": True,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**shape, **changes}, dtype=torch.float32, **ends))
    model.generation_config = GenerationConfig(**ends)
    return model.eval()


def write_base(folder: str, progress: Callable[[int, int], None], **how: Any) -> dict[str, Any]:
    """`pretrain` into a folder that appears whole or not at all."""
    import shutil

    final = Path(folder)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    result = pretrain(str(temporary), progress=progress, **how)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    return result
