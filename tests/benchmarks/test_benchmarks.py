"""Every benchmark runs, at a tiny size; the figures it measures are not compared with anything here."""

import ast
import logging
import sys
from pathlib import Path

import pytest

from benchmarks.speed import archive, gpu_train, replay, train, verify

pytestmark = pytest.mark.slow


def test_archive(tmp_path, capsys) -> None:
    archive.main(["--rows", "300", "--commits", "3", "--train", "0", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "MADE UP" in printed
    for line in ("append 300", "tokens: skipped", "open a label", "query: view rollouts, 300", "fetch ids, "):
        assert f"\n{line}" in printed, printed
    assert not list(tmp_path.iterdir()), "it cleans up after itself"


def test_replay(tmp_path, capsys) -> None:
    replay.main(["groups", "fresh_priority", "--rows", "9000", "--folder", str(tmp_path), "--torchrl", "/bin/false"])
    printed = capsys.readouterr().out
    for rule in ("groups", "fresh_priority"):
        for line in ("1,024 of 9,000", "10 times the archive", "window 5,120"):
            assert f"\n{rule}, {line}" in printed, printed
    assert "prioritised: /bin/false does not run torchrl's sampler" in printed


def test_verify(capsys, monkeypatch) -> None:
    if not verify.DATA.exists():
        pytest.skip("no labelled solutions here")
    # In this process: a new one for each of its twenty measurements imports math-verify every time.
    monkeypatch.setattr(verify, "fresh", lambda child, *words: child(*map(str, words)))
    try:
        verify.main(["--items", "60", "--repeats", "1"])
    finally:
        logging.disable(logging.NOTSET)  # its plain loop wants no warnings
    printed = capsys.readouterr().out
    for line in ("short: 60 solutions", "short, 1 at work", "long, memory", "aime: 60", "1 hostile ones", "start of"):
        assert f"\n{line}" in printed, printed
    assert "the others' verdicts are the same" in printed, printed


def test_train(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where there is no TRL
    monkeypatch.setattr(train, "MIXES", ("uneven",))
    monkeypatch.setattr(train, "LARGE_VOCABULARY", 500)
    monkeypatch.setattr(train, "fresh", lambda child, *words: child(*map(str, words)))
    train.main(["--repeats", "1", "--tokens", "500", "--models", "small", "--long", "200"])
    printed = capsys.readouterr().out
    for line in (
        "no TRL here",
        "small, uneven: 8 rollouts",
        "small, uneven, padding, padded",
        "memory, 500 x 200 tokens, tied",
    ):
        assert f"\n{line}" in printed, printed
    assert printed.count(" plain, ") == 6, printed


def test_gpu_train(capsys) -> None:
    gpu_train.main(["--tiny", "--repeats", "1"])
    printed = capsys.readouterr().out
    for how in ("none", "layers"):
        for line in ("peak", "plain step", "hidden only"):
            assert any(f"checkpointing {how}" in said and line in said for said in printed.splitlines()), printed
    for part in ("attention", "matmul", "head", "optimizer"):
        assert f"{part} " in printed, printed


def test_gpu_train_needs_nothing_but_the_trainer() -> None:
    allowed = {"reval", "schemas", "torch", "transformers", "accelerate", "pyarrow", "numpy", *sys.stdlib_module_names}
    nodes = list(ast.walk(ast.parse(Path(gpu_train.__file__).read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "reval" in imported
    assert {name.partition(".")[0] for name in imported} <= allowed
