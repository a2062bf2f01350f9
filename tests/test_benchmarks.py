"""The benchmarks run, at sizes that say nothing; what they measure is not held against anything here."""

from benchmarks import archive


def test_archive(tmp_path, capsys) -> None:
    archive.main(["--rows", "300", "--commits", "3", "--train", "0", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "MADE UP" in printed
    for line in ("append 300", "tokens: skipped", "open a label", "query: view rollouts, 300", "fetch ids, "):
        assert f"\n{line}" in printed, printed
    assert not list(tmp_path.iterdir()), "it cleans up after itself"
