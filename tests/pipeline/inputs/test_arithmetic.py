"""The built-in default: its problems, its worked examples, and a model that is the same for the same seed."""

import doctest

import pytest
import torch
from safetensors.torch import load_file

from pipeline.inputs import arithmetic
from schemas.enums import Split


def test_problems_are_right_and_split_for_good() -> None:
    found = arithmetic.problems(0)
    assert len(found) == len({problem for problem, _, _ in found}) == 2 * 90 * 90
    assert sum(split == Split.HELDOUT for _, _, split in found) == arithmetic.N_HELDOUT
    assert found == arithmetic.problems(0) != arithmetic.problems(1)
    for problem, answer, _ in found[::50]:
        a, sign, b = int(problem[:2]), problem[2], int(problem[3:5])
        assert int(answer) == (a + b if sign == "+" else a - b)


def test_every_worked_example_is_right() -> None:
    for problem, answer, _ in arithmetic.problems(0):
        at_once, worked = arithmetic.answers(problem)
        assert at_once == f" \\boxed{{{answer}}}"
        units, tens, boxed = worked.split()
        assert 10 * int(tens) + int(units) == int(answer)
        assert f" {boxed}" == at_once
    assert doctest.testmod(arithmetic).failed == 0


def test_the_tokenizer_is_one_token_a_character_and_back() -> None:
    tokenizer = arithmetic.make_tokenizer()
    for problem, _, _ in arithmetic.problems(0)[:200]:
        for text in (problem, *arithmetic.answers(problem)):
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arithmetic, "CHECK_EVERY", 2)
    monkeypatch.setattr(arithmetic, "N_CHECKED", 20)
    for name in "ab":
        made = arithmetic.pretrain(str(tmp_path / name), 0, 0, 0.0, lambda done, total: None)
        assert made["n_parameters"] < 2_000_000
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    first, other = (arithmetic.make_model(arithmetic.make_tokenizer(), seed).state_dict() for seed in (0, 1))
    assert not all(torch.equal(first[key], other[key]) for key in first)
