"""The benchmarks run, at sizes that say nothing; what they measure is not held against anything here."""

import pytest

from benchmarks import archive, replay, verify


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


def test_verify(capsys) -> None:
    if not verify.DATA.exists():
        pytest.skip("no labelled solutions here")
    verify.main(["--items", "60", "--repeats", "1"])
    printed = capsys.readouterr().out
    for line in ("short: 60 solutions", "short, 1 at work", "long, memory", "aime: 60", "1 hostile ones", "start of"):
        assert f"\n{line}" in printed, printed
    assert "the others' verdicts are the same" in printed, printed
