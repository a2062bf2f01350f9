"""Makes the rows that the benchmarks measure with.

Token rows come from a small language model that is trained on real answers and sampled at temperature 1. Uniform ids
would not do, because an archive's size depends on how predictable a policy's tokens are and on its log-probs. Longer
responses are several of these end to end. The other tables are made up, in the same form as a run's.
"""

import json
import random
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.progress import bar, log
from schemas import TABLES, digest

SOLUTIONS = Path(__file__).parents[3] / "shared/data/gsm8k/example_model_solutions.jsonl"
VOCABULARY, CONTEXT = 8192, 512
BATCH, LENGTH, LEARNING_RATE, WARM_UP = 4, 192, 3e-3, 50
QUESTIONS, SAMPLES, MAX_TOKENS = 200, 16, 300  # few questions, seen often: so the model learns them in a short time
GROUP = 8
PER_RUN = 60


def realistic(folder: Path, seconds: float) -> pa.Table | None:
    """Rows of responses from a model trained for this many seconds, kept in `folder`; None: no data, or 0 seconds."""
    cached = folder / "rollouts.parquet"
    if not cached.exists():
        if not SOLUTIONS.exists() or not seconds:
            return None
        log.info("training a model on %s for %.0f s, then sampling it", SOLUTIONS.name, seconds)
        pq.write_table(_sampled(folder / "model", seconds), cached)
    return pq.read_table(cached)


def made_up(chance: np.random.Generator, n: int = 2048) -> pa.Table:
    """Rows of responses if there are no realistic ones: ids are as frequent as words, most log-probs are near 0."""
    lengths = chance.integers(100, 300, n)
    offsets, total = np.concatenate([[0], np.cumsum(lengths)]).astype("i4"), int(lengths.sum())
    ids = pa.ListArray.from_arrays(offsets, pa.array(np.minimum(chance.zipf(1.3, total), VOCABULARY - 1), pa.int32()))
    logprobs = pa.ListArray.from_arrays(offsets, pa.array(-chance.gamma(0.3, 1.0, total), pa.float32()))
    text = [" ".join(map(str, row)) for row in ids.to_pylist()]
    return pa.table([_ids(chance, n), text, ids.slice(0, n), ids, logprobs], TABLES["responses"].schema)


def responses(pool: pa.Table, n: int, parts: int, chance: np.random.Generator) -> pa.Table:
    """`n` rows with new ids; each is `parts` rollouts of the pool end to end."""
    rows = pool.take(chance.integers(len(pool), size=n * parts)).combine_chunks()
    columns = [_ids(chance, n), _joined(rows["response_text"], parts)]
    columns.append(rows["prompt_token_ids"].take(np.arange(0, n * parts, parts)))
    columns += [_joined(rows[name], parts) for name in ("response_token_ids", "behaviour_logprobs")]
    return pa.table(columns, TABLES["responses"].schema)


def trajectories(rows: pa.Table, number: int, chance: np.random.Generator) -> pa.Table:
    """Rows of trajectories for rows of responses, or for bare trajectory_ids, as shard `number`."""
    n = len(rows)
    run, iteration = _run(number)
    lengths = chance.integers(100, 1024, n)
    group = np.arange(n) // GROUP
    columns: dict[str, Any] = {name: pa.nulls(n, type) for name, type in _fields("trajectories")}
    columns |= {
        "trajectory_id": rows["trajectory_id"],
        "group_id": _ids(chance, n // GROUP + 1).take(group),
        "prompt_id": prompts()["prompt_id"].take((number * 499 + group) % 10_000),
        **{"policy_id": [f"{run}-{iteration:04}"] * n, "run_id": [run] * n, "iteration": [iteration] * n},
        **{"engine": ["vllm"] * n, "engine_version": ["0.32.0"] * n, "temperature": [1.0] * n, "seed": [number] * n},
        **{"sample_index": np.arange(n) % GROUP, "max_response_tokens": [1024] * n},
        "finish_reason": np.where(lengths < 1000, "stop", "length"),
        "n_prompt_tokens": chance.integers(40, 200, n // GROUP + 1)[group],
        "n_response_tokens": lengths,
        "behaviour_logprob_sum": -lengths * chance.gamma(2, 0.2, n),
    }
    return pa.table(columns, TABLES["trajectories"].schema)


def verdicts(rows: pa.Table, chance: np.random.Generator) -> pa.Table:
    """One verdict for each row of trajectories; two in five are right."""
    n, right = len(rows), chance.random(len(rows)) < 0.4
    columns = {
        "trajectory_id": rows["trajectory_id"],
        "verifier_id": ["math-verify-1/0.9.0"] * n,
        "verdict": np.where(right, "correct", "wrong"),
        "reward": right.astype(float),
        "extracted_answer": chance.integers(0, 1000, n).astype(str),
        "seconds": chance.random(n) / 100,
        "iteration": rows["iteration"],
    }
    return pa.table(columns, TABLES["verdicts"].schema)


def runs(n_shards: int) -> dict[str, pa.Table]:
    """The policies and runs that `trajectories` names."""
    made = [_run(number) for number in range(n_shards)]
    policies = [{"policy_id": f"{run}-{iteration:04}", "run_id": run, "iteration": iteration} for run, iteration in made]
    names = {"flow": "iterate", "recipe": "made-up", "config": "{}", "base_policy_id": "base", "benchmark": "none"}
    begun = [{"run_id": run, "n_iterations": PER_RUN, **names} for run in dict(made)]
    rows = {"policies": policies, "runs": begun}
    return {name: pa.Table.from_pylist(made, TABLES[name].schema) for name, made in rows.items()}


def _run(shard: int) -> tuple[str, int]:
    """The run and iteration that made a shard."""
    return f"run-{shard // PER_RUN}", shard % PER_RUN + 1


def prompts(n: int = 10_000) -> pa.Table:
    columns: dict[str, Any] = {name: pa.nulls(n, type) for name, type in _fields("prompts")}
    columns |= {"prompt_id": _ids(np.random.default_rng(1), n), "source": ["made-up"] * n, "split": ["train"] * n}
    columns |= {"problem": [f"What is {k} + {3 * k}?" for k in range(n)], "gold_answer": [str(4 * k) for k in range(n)]}
    return pa.table(columns, TABLES["prompts"].schema)


def bare(n: int, chance: np.random.Generator) -> pa.Table:
    """Rows of responses with a line of text and no tokens, like imported text."""
    columns: dict[str, Any] = {name: pa.nulls(n, type) for name, type in _fields("responses")}
    text = [f"It costs {k} and that makes \\boxed{{{k % 1000}}}" for k in chance.integers(0, 10**6, n)]
    columns |= {"trajectory_id": _ids(chance, n), "response_text": text}
    return pa.table(columns, TABLES["responses"].schema)


def _fields(name: str) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in TABLES[name].schema]


def _ids(chance: np.random.Generator, n: int) -> pa.Array:
    """Ids like digests: 32 hex digits that do not repeat."""
    text = chance.bytes(16 * n).hex().encode()
    return pa.StringArray.from_buffers(n, pa.py_buffer(np.arange(0, 32 * n + 1, 32, dtype="i4")), pa.py_buffer(text))


def _joined(column: pa.ChunkedArray, parts: int) -> pa.Array:
    """Every `parts` texts or lists as one."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets.to_numpy()[::parts], array.values)
    offsets = np.frombuffer(array.buffers()[1], "i4", len(array) + 1)[::parts]
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(np.ascontiguousarray(offsets)), array.buffers()[2])


def _sampled(folder: Path, seconds: float) -> pa.Table:
    from pipeline.engines.base import EngineProcess
    from pipeline.inputs.arithmetic import make_model
    from schemas import UserError

    problems = [json.loads(line) for line in SOLUTIONS.read_text().splitlines()]
    questions = [problem.pop("question") + "\n" for problem in problems]
    solutions = [_solutions(problem) for problem in problems]
    tokenizer = _tokenizer([*questions, *chain(*solutions)])
    asked = tokenizer(questions[:QUESTIONS])["input_ids"]
    documents = [tokenizer([text + "\n" for text in texts])["input_ids"] for texts in solutions[:QUESTIONS]]
    shape = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3}
    shape |= {"intermediate_size": 576, "max_position_embeddings": CONTEXT, "tie_word_embeddings": True}
    model = make_model(tokenizer, 0, **shape).train()
    _train(model, asked, documents, seconds, tokenizer.eos_token_id)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    how: dict[str, Any] = {"log": folder / "engine.log", "device": "cpu", "batch": 256, "gpu_memory_share": 0.5}
    try:
        engine = EngineProcess("vllm", **how)
    except UserError:
        engine = EngineProcess("transformers", **how)
    try:
        engine.load(str(folder))
        with bar("sampling") as progress:
            made = engine.generate(asked, n=SAMPLES, temperature=1.0, max_tokens=MAX_TOKENS, seed=1, progress=progress)
    finally:
        engine.close()
    columns = {
        "trajectory_id": [digest("benchmark", k) for k in range(len(made))],
        "response_text": tokenizer.batch_decode(made["response_token_ids"].to_pylist(), skip_special_tokens=True),
        "prompt_token_ids": [asked[k // SAMPLES] for k in range(len(made))],
        **{name: made[name] for name in ("response_token_ids", "behaviour_logprobs")},
    }
    return pa.table(columns, TABLES["responses"].schema)


def _solutions(problem: dict[str, Any]) -> list[str]:
    """The reference solution and those of four models, right and wrong."""
    return [problem["ground_truth"], *(value["solution"] for value in problem.values() if isinstance(value, dict))]


def _tokenizer(corpus: list[str]) -> Any:
    """A byte-level BPE, as language models have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = {"vocab_size": VOCABULARY, "special_tokens": ["<pad>", "<eos>"], "initial_alphabet": alphabet}
    backend.train_from_iterator(corpus, trainers.BpeTrainer(show_progress=False, **how))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def _train(model: Any, asked: list[list[int]], documents: list[list[list[int]]], seconds: float, end: int) -> None:
    """Trains on documents of a question and three of its solutions, packed without padding."""
    import torch

    chance, stream = random.Random(0), list[int]()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    began, step = time.monotonic(), 0
    with bar("training") as progress:
        while (used := (time.monotonic() - began) / seconds) < 1:
            while len(stream) < BATCH * LENGTH:
                index = chance.randrange(len(asked))
                stream += [*asked[index], *chain(*chance.sample(documents[index], 3)), end]
            batch, stream = torch.tensor(stream[: BATCH * LENGTH]).view(BATCH, LENGTH), stream[BATCH * LENGTH :]
            step += 1
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, step / WARM_UP) * min(1, 2 * (1.02 - used))
            optimizer.zero_grad(set_to_none=True)
            loss = model(batch, labels=batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress(int(used * seconds), int(seconds))
    log.info("%d steps, loss %.2f", step, loss.item())
