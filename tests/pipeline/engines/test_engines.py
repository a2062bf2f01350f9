"""Both real engines: ids and log-probs agree with the trainer's, and new weights are taken in place."""

import json
import math

import pyarrow as pa
import pytest

from pipeline.engines.base import EngineProcess
from pipeline.recipes.config import Generate
from pipeline.stages import generate
from pipeline.stages.answer import Answers, Sampling, responses
from reval.trainer import Trainer
from schemas import UserError
from tests.helpers.archives import random_model

pytestmark = pytest.mark.slow
PROMPTS = [[4, 5, 13, 6, 7, 15], [8, 9, 14, 10], [11, 12, 13, 3, 3, 15, 18]]
EOS = 1
# A model's own settings of generation, which would change log-probs if the engine took them.
PICKY = {"repetition_penalty": 1.5, "min_p": 0.3, "top_k": 2, "top_p": 0.5, "do_sample": True}
NAMES = {"policy_id": "p", "run_id": "r", "iteration": 1}


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def engine(request, tmp_path_factory):
    log = tmp_path_factory.mktemp("logs") / "engine.log"
    made = EngineProcess(request.param, log=log, device="cpu", batch=8, gpu_memory_share=0.5)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(engine, request, tmp_path_factory):
    """Two policies of the same shape; on a CPU, vLLM's own reload does not update a tied output layer.

    Both bring their own settings of generation, which no engine may take.
    """
    if request.param and engine.name == "transformers":
        pytest.skip("transformers loads a tied model as any other")
    folder = tmp_path_factory.mktemp("pair")
    made = [random_model(folder / str(seed), seed, tie_word_embeddings=request.param) for seed in (1, 2)]
    for location in made:
        path = location / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **PICKY}))
    return [str(location) for location in made]


def ask(engine, **changes) -> pa.Table:
    how = {"n": 4, "temperature": 1.0, "max_tokens": 12, "seed": 5, "progress": lambda done, total: None}
    return engine.generate(PROMPTS, **{**how, **changes})


def gap(completions: pa.Table, location: str, temperature: float = 1.0) -> float:
    """Mean |engine - trainer| log-prob per token."""
    rows = pa.table(
        {
            "prompt_token_ids": [PROMPTS[i] for i in completions["prompt_index"].to_pylist()],
            "response_token_ids": completions["response_token_ids"],
        }
    )
    ours = Trainer().forward(location, rows, device="cpu", micro_batch_tokens=512, temperature=temperature)["logprobs"]
    pairs = [
        (a, b)
        for left, right in zip(ours.to_pylist(), completions["behaviour_logprobs"].to_pylist(), strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def test_engine_and_trainer_agree_through_changes_of_weights(engine, pair) -> None:
    one, two = pair
    for location, other in ((one, two), (two, one), (one, two)):
        engine.load(location)
        completions = ask(engine)
        assert gap(completions, location) < 1e-5
        assert gap(completions, other) > 0.1, "the check could not tell the two policies apart"


def test_what_comes_back_is_what_was_asked_for(engine, pair) -> None:
    engine.load(pair[0])
    completions = ask(engine)
    places = [(i, s) for i in range(len(PROMPTS)) for s in range(4)]
    assert (
        list(zip(completions["prompt_index"].to_pylist(), completions["sample_index"].to_pylist(), strict=True)) == places
    )
    for row in completions.to_pylist():
        ids, logps = row["response_token_ids"], row["behaviour_logprobs"]
        assert len(ids) == len(logps) <= 12
        assert all(logp <= 0 and math.isfinite(logp) for logp in logps)
        # The end-of-sequence token is in the response once, at its end, and is the finish reason.
        assert (row["finish_reason"] == "stop") == (ids[-1] == EOS)
        assert EOS not in ids[:-1]
        assert row["finish_reason"] == "stop" or len(ids) == 12
    assert ask(engine).equals(completions), "the same seed, the same tokens"
    assert not ask(engine, seed=6).equals(completions)


def test_temperature_is_that_of_the_recorded_logprobs(engine, pair) -> None:
    engine.load(pair[0])
    completions = ask(engine, temperature=0.5)
    assert gap(completions, pair[0], temperature=0.5) < 1e-5
    assert gap(completions, pair[0]) > 0.01


def test_greedy_takes_the_likeliest(engine, pair) -> None:
    import torch

    from reval.model import load

    engine.load(pair[0])
    model = load(pair[0], torch.device("cpu"))
    greedy = ask(engine, n=1, temperature=0.0)
    for prompt, ids in zip(PROMPTS, greedy["response_token_ids"].to_pylist(), strict=True):
        best = model(torch.tensor([prompt + ids])).logits[0].argmax(-1).tolist()
        assert best[len(prompt) - 1 : -1] == ids
    # Its log-probs are at temperature 1, so the check of an engine's weights can use them.
    assert gap(greedy, pair[0]) < 1e-5


def test_no_response_leaves_the_context(engine, pair) -> None:
    engine.load(pair[0])
    prompts = [[3 + i % 9 for i in range(engine.context_tokens - 4)], PROMPTS[0]]
    completions = engine.generate(prompts, n=2, temperature=1.0, max_tokens=30, seed=1, progress=lambda done, total: None)
    lengths = [len(ids) for ids in completions["response_token_ids"].to_pylist()]
    assert max(lengths[:2]) <= 4
    assert all(
        why == "length" for why, n in zip(completions["finish_reason"].to_pylist()[:2], lengths, strict=False) if n == 4
    )


def test_a_models_own_generation_settings_change_nothing(engine, pair) -> None:
    """They are there when the engine starts: see `pair`."""
    engine.load(pair[0])
    completions = ask(engine, n=64)
    assert gap(completions, pair[0]) < 1e-5
    first = {(row["prompt_index"], row["response_token_ids"][0]) for row in completions.to_pylist()}
    assert len(first) > 2 * len(PROMPTS), "with top_k = 2 a prompt has at most two first tokens"


def test_a_prompt_too_long_is_a_row_that_says_so(engine, pair) -> None:
    engine.load(pair[0])
    long = [3] * engine.context_tokens
    settings = Generate(prompts_per_iteration=3, samples_per_prompt=2, max_response_tokens=8)
    rows = responses(engine, [PROMPTS[0], long, PROMPTS[1]], Sampling(2, 1.0, 8, seed=1), lambda done, total: None)
    given = Answers(rows.append_column("response_text", [[""] * len(rows)]), engine, None)
    rows = generate.rollouts(["a", "long", "b"], given, NAMES, settings, 1).to_pylist()
    assert [row["prompt_id"] for row in rows] == ["a", "a", "long", "long", "b", "b"]
    assert [row["finish_reason"] == "prompt_too_long" for row in rows] == [False, False, True, True, False, False]
    assert len({row["trajectory_id"] for row in rows}) == 6
    assert [row["n_response_tokens"] > 0 for row in rows] == [True, True, False, False, True, True]
    assert rows[4]["prompt_token_ids"] == PROMPTS[1]


def test_a_missing_engine_names_the_other(monkeypatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipeline.engines.base.version", missing)
    with pytest.raises(UserError, match=r"runtime\.engine=transformers"):
        EngineProcess("vllm", log=None)


def test_what_is_not_a_model_is_said_in_a_line(engine, tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    other = EngineProcess(engine.name, log=tmp_path / "log", device="cpu", batch=8, gpu_memory_share=0.5)
    try:
        with pytest.raises(UserError, match=r"policy .*: "):
            other.load(str(tmp_path))
    finally:
        other.close()
