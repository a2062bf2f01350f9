"""Files in the exact shapes of other programs, and broken ones: each row comes out once or says why not."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.exchange import RolloutFormat
from pipeline.exchange import formats
from pipeline.exchange.formats import BadRow, Columns, Reject, Row, files, names, values
from schemas import UserError
from tests.helpers.files import lines, trace

COLUMNS = Columns({})


def read(path: Path) -> list[Row | Reject]:
    return [row for source in formats.find(path) for row in formats.read(source)]


def good(path: Path) -> list[dict]:
    found = read(path)
    assert all(isinstance(row, Row) for row in found), found
    return [dict(row.values) for row in found]


def rollouts(path: Path, **mapped: str) -> tuple[str, list[formats.Rollout]]:
    """The format that is detected from the first row, and the rollouts that it reads."""
    rows = read(path)
    name = formats.detect(rows[0])
    return name, [r for row in rows for r in formats.ROLLOUTS[name].rollouts(row.values, Columns(mapped), row.file)]


ROWS = [{"question": "1+1", "answer": "2"}, {"question": "café\n", "answer": "4"}]


class TestFiles:
    def test_every_kind_of_file_holds_the_same_rows(self, tmp_path) -> None:
        lines(tmp_path / "a.jsonl", *ROWS)
        lines(tmp_path / "windows.jsonl", b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n\r\n", ROWS[1])
        (tmp_path / "array.json").write_text(json.dumps(ROWS, indent=2))
        (tmp_path / "object.json").write_text(json.dumps({"version": 1, "data": ROWS}))
        lines(tmp_path / "lines.json", *ROWS)
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
        with (tmp_path / "a.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
        for path in sorted(tmp_path.iterdir()):
            assert good(path) == ROWS, path

    def test_a_hugging_face_datasets_folder(self, tmp_path) -> None:
        """`DatasetDict.save_to_disk`: one folder per split, Arrow streams, and JSON files that are not data."""
        (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        for split, row in zip(("train", "test"), ROWS, strict=True):
            folder = tmp_path / split
            folder.mkdir()
            for name in ("dataset_info.json", "state.json"):
                (folder / name).write_text("{}")
            table = pa.Table.from_pylist([row])
            for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
                with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
        found = [(row.file, names.split(row.file), dict(row.values)) for row in read(tmp_path)]
        assert found == [
            ("test/data-00000-of-00001.arrow", "heldout", ROWS[1]),
            ("train/data-00000-of-00001.arrow", "train", ROWS[0]),
        ]

    def test_numbers_in_names_count_as_numbers(self, tmp_path) -> None:
        for step in (10, 9, 100):
            lines(tmp_path / f"{step}.jsonl", {})
        assert [source.name for source in formats.find(tmp_path)] == ["9.jsonl", "10.jsonl", "100.jsonl"]

    def test_a_bad_line_costs_only_itself(self, tmp_path) -> None:
        bad = {
            "not JSON: ": b"{\n",
            "not an object with columns but list": b"[1]\n",
            "not an object with columns but NoneType": b"null\n",
            "not UTF-8: byte 0xff at 8": b'{"a": "\xff"}\n',
            "column 'a' stands there twice": b'{"a": 1, "a": 2}\n',
            "nested too deeply": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
            "not JSON that can be read": b'{"a": ' + b"9" * 5000 + b"}\n",
        }
        between = [row for n, line in enumerate(bad.values()) for row in (line, {"a": n})]
        found = read(lines(tmp_path / "x.jsonl", {"a": -1}, *between))
        assert [dict(row.values) for row in found[::2]] == [{"a": n} for n in range(-1, len(bad))]
        for n, (reason, row) in enumerate(zip(bad, found[1::2], strict=True)):
            assert (row.file, row.line) == ("x.jsonl", 2 * n + 2), reason
            assert reason in row.reason
            assert len(row.row) <= 200, reason

    def test_a_line_without_end_is_not_held_in_memory(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
        found = read(lines(tmp_path / "x.jsonl", {"a": 1}, b"x" * (5 << 20) + b"\n", {"a": 3}))
        assert [row.line for row in found] == [1, 2, 3]
        assert found[1].reason == "the line is longer than 1 MiB"

    def test_bad_rows_of_a_csv(self, tmp_path) -> None:
        (tmp_path / "x.csv").write_bytes(b'a,b\n1,"two\nlines"\n1\n\xff,2\n3,\n')
        found = read(tmp_path / "x.csv")
        assert [row.line for row in found] == [2, 4, 5, 6]
        assert [getattr(row, "reason", None) for row in found] == [
            None,
            "1 fields where the header has 2",
            "not UTF-8",
            None,
        ]
        assert found[3].values == {"a": "3", "b": None}

    def test_text_of_a_parquet_file_that_is_not_utf8(self, tmp_path) -> None:
        bad = pa.StringArray.from_buffers(2, *pa.array([b"ok", b"\xff"], pa.binary()).buffers()[1:])
        pq.write_table(pa.table({"a": bad}), tmp_path / "x.parquet")
        found = read(tmp_path / "x.parquet")
        assert found[0] == Row("x.parquet", 1, {"a": "ok"})
        assert found[1] == Reject("x.parquet", 2, "not UTF-8", "")

    def test_a_file_cut_short_gives_what_it_has(self, tmp_path) -> None:
        whole = gzip.compress(b"".join(json.dumps({"a": i, "b": "x" * 999}).encode() + b"\n" for i in range(200)), 0)
        (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
        found = read(tmp_path / "x.jsonl.gz")
        assert len(found) > 50
        assert "damaged from here on" in found[-1].reason

    def test_a_file_that_is_not_what_its_name_says(self, tmp_path) -> None:
        for name, content, words in (
            ("x.parquet", b"", "not a Parquet file"),
            ("x.parquet", b"PAR1 hello", "not a Parquet file"),
            ("x.arrow", b"hello there", "not an Arrow file"),
            ("x.json", b"", "is not JSON"),
            ("x.json", b'{\n"a": ', "is not JSON"),
            ("x.json", b"[1, 2", "is not JSON"),
            ("x.csv", b"", "has no header"),
            ("x.csv", b"a,a\n1,2\n", "column 'a' twice"),
            ("x.jsonl.gz", b"hello", "cannot be read"),
            ("x.txt", b"hello", "which format it has is not clear"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=words):
                read(tmp_path / name)

    def test_what_is_no_file(self, tmp_path) -> None:
        (tmp_path / "README.md").write_text("")
        with pytest.raises(UserError, match="holds no data"):
            formats.find(tmp_path)
        with pytest.raises(UserError, match="does not exist"):
            formats.find(tmp_path / "nope")
        with pytest.raises(UserError, match="neither a file nor a folder"):
            formats.find(Path("/dev/null"))


class TestValues:
    def test_gold_answers(self) -> None:
        for text, answer in (
            ("She has 3.\n#### 18", "18"),
            ("#### 1\n... no:\n#### 1,234,567 ", "1234567"),
            ("so it is 5\nA: 2,000", "2000"),
            ("1,234", "1,234"),  # without a mark it is what it is: perhaps a pair
            (r"thus $\boxed{1}$, no, $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
            (r"\boxed{1", r"\boxed{1"),
            (18, "18"),
            (0.5, "0.5"),
            (["18"], "18"),
            (" 18 ", "18"),
            ("", None),
            (None, None),
        ):
            assert values.gold(text) == answer, text

    def test_what_is_no_gold_answer(self) -> None:
        for value in (True, ["1", "2"], {"a": 1}, float("nan"), "\ud800"):
            with pytest.raises(BadRow, match="gold_answer"):
                values.gold(value)

    def test_what_is_no_reward(self) -> None:
        for value in (float("nan"), float("inf"), "nan", "many", [1], 10**400, "1e999"):
            with pytest.raises(BadRow, match="not a finite number"):
                values.finite("reward", value)

    def test_what_are_no_token_ids(self) -> None:
        for value in ([-1], [2**31], [1.5], ["a"], "12", 3, [[1]], [1, None], [True], [1, "2"]):
            with pytest.raises(BadRow, match="response_token_ids"):
                values.token_ids("response_token_ids", value)

    def test_what_are_no_log_probs(self) -> None:
        for value in ([float("nan")], [float("-inf")], [0.9], [None], "x", [[-1.0]]):
            with pytest.raises(BadRow, match="logprobs"):
                values.logprobs("logprobs", value)

    def test_what_a_place_says(self) -> None:
        for path, name, split, step in (
            ("/data/gsm8k/test.jsonl", "gsm8k", "heldout", None),
            ("/data/gsm8k_train.jsonl", "gsm8k", "train", None),
            ("/x/aime/data/test-00000-of-00001.parquet", "aime", "heldout", None),
            ("/runs/My Run/completions/completions_00012.parquet", "my-run", "train", None),
            ("/runs/my-run/rollouts/step_3/train_rollouts.jsonl.gz", "my-run", "train", 3),
            ("/runs/my-run/rollout_data/20.jsonl", "my-run", "train", 20),
            ("/runs/latest.jsonl", "latest", "train", None),
            ("/runs/contest.jsonl", "contest", "train", None),
        ):
            assert names.origin(Path(path)) == name, path
            assert names.split(Path(path).name) == split, path
            assert names.step(Path(path)) == step, path


PROMPT = "<|im_start|>user\n2+2<|im_end|>\n<|im_start|>assistant\n"


class TestRollouts:
    def test_every_format_can_be_named(self) -> None:
        assert {*RolloutFormat} == {*formats.ROLLOUTS}

    def test_trl(self, tmp_path) -> None:
        """OUTPUT_DIR/completions/completions_00005.parquet, as pandas writes what GRPOTrainer.log puts together."""
        table = pa.table(
            {
                "step": [5, 5, 5],
                "prompt": [PROMPT] * 3,
                "completion": ["4", "5", "?"],
                "accuracy_reward": [1.0, 0.0, float("nan")],
                "advantage": [0.7, -0.7, 0.0],
            }
        )
        path = tmp_path / "run" / "completions" / "completions_00005.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
        name, found = rollouts(path)
        assert name == "trl"
        assert [(r.problem, r.text, r.step, r.gold_answer, r.policy) for r in found] == [
            (PROMPT, text, 5, None, None) for text in ("4", "5", "?")
        ]
        assert [(r.correct, r.reward) for r in found] == [(True, 1.0), (False, 0.0), (None, None)]
        pq.write_table(table.append_column("format_reward", pa.array([1.0] * 3)), path)
        with pytest.raises(
            UserError, match=r"\(accuracy_reward, format_reward\): name one with --map reward=accuracy_reward"
        ):
            rollouts(path)
        assert [r.reward for r in rollouts(path, reward="format_reward")[1]] == [1.0] * 3

    def test_verl(self, tmp_path) -> None:
        """{rollout_data_dir}/{step}.jsonl, with the reward function's results as more keys; gts is a newer key."""
        row = {"input": PROMPT, "output": "4", "gts": "4", "score": 1.0, "step": 7, "acc": True, "pred": "4"}
        name, found = rollouts(lines(tmp_path / "7.jsonl", row, {**row, "gts": None, "score": -1.0, "output": "5"}))
        assert name == "verl"
        assert [(r.problem, r.text, r.gold_answer, r.reward, r.correct, r.step) for r in found] == [
            (PROMPT, "4", "4", 1.0, True, 7),
            (PROMPT, "5", None, -1.0, False, 7),
        ]
        del row["gts"]
        assert rollouts(lines(tmp_path / "8.jsonl", row))[0] == "verl"

    def test_prime_rl_outputs(self, tmp_path) -> None:
        """Before verifiers v1: output of state_to_output, and verifiers' results.jsonl; metrics are keys at the top."""
        row = {
            "example_id": 3,
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2"}],
            "completion": [{"role": "assistant", "content": "4"}],
            "answer": "4",
            "reward": 1.0,
            "timing": {"total_ms": 3.0},
            "is_completed": True,
            "is_truncated": False,
            "stop_condition": None,
            "metrics": {"correct_answer": 1.0},
            "correct_answer": 1.0,
        }
        tokens = {"prompt_ids": [1, 2], "completion_ids": [3], "completion_logprobs": [-0.5]}
        turn = {"prompt": row["prompt"], "completion": row["completion"], "tokens": tokens}
        many = [*row["completion"], {"role": "user", "content": "sure?"}, *row["completion"]]
        path = lines(tmp_path / "train_rollouts.jsonl", row, {**row, "trajectory": [turn], "error": {"error": "Timeout"}})
        name, found = rollouts(path)
        assert name == "prime-rl"
        assert [(r.problem, r.text, r.gold_answer, r.reward, r.finish_reason) for r in found] == [
            ("2+2", "4", "4", 1.0, "stop"),
            ("2+2", "4", "4", None, "stop"),
        ]
        assert found[0].chat == row["prompt"]
        assert [x.tolist() for x in (found[1].prompt_token_ids, found[1].response_token_ids)] == [[1, 2], [3]]
        for bad in ({**row, "trajectory": [turn, turn]}, {**row, "completion": many}):
            with pytest.raises(BadRow, match="turn"):
                rollouts(lines(tmp_path / "bad.jsonl", bad))

    def test_prime_rl_traces(self, tmp_path) -> None:
        """Since verifiers v1: Trace.to_record; the tokens of its nodes, one after another, are the model's context."""
        name, found = rollouts(lines(tmp_path / "train_rollouts.jsonl", trace()))
        assert name == "prime-rl"
        (r,) = found
        assert (r.problem, r.text, r.gold_answer, r.policy, r.step) == ("2+2", "4", "4", "Qwen/Qwen3-0.6B", 12)
        assert (r.prompt_token_ids.tolist(), r.response_token_ids.tolist()) == ([10, 11, 12, 13], [14, 15])
        assert r.logprobs.tolist() == [-0.5, -0.25]
        assert r.reward == pytest.approx(1.0 * 1.0 + 0.5 * 0.2)  # the weighted sum of functions that ran
        assert (r.temperature, r.max_response_tokens, r.finish_reason) == (0.7, 64, "length")
        unscored = trace()
        unscored["rewards"] = {"correct": None}
        assert rollouts(lines(tmp_path / "x.jsonl", unscored))[1][0].correct is None
        several = trace()
        several["nodes"] += [{**several["nodes"][-1], "parent": 2}]
        interleaved = trace()
        interleaved["nodes"][-1]["mask"] = [True, False, True]
        for bad, words in ((several, "2 model turns in 4 messages"), (interleaved, "not sampled")):
            with pytest.raises(BadRow, match=words):
                rollouts(lines(tmp_path / "x.jsonl", bad))

    def test_gsm8k(self, tmp_path) -> None:
        row = {
            "question": "2+2?",
            "ground_truth": "It is 4.\nA: 4",
            "6b_finetuning": {"is_correct": False, "solution": "A: 5"},
            "175b_verification": {"is_correct": True, "solution": "A: 4"},
        }
        name, found = rollouts(lines(tmp_path / "example_model_solutions.jsonl", row))
        assert name == "gsm8k"
        assert [(r.policy, r.text, r.correct, r.reward, r.gold_answer) for r in found] == [
            ("6b_finetuning", "A: 5", False, 0.0, "4"),
            ("175b_verification", "A: 4", True, 1.0, "4"),
        ]

    def test_rows_with_several_responses(self, tmp_path) -> None:
        row = {
            "prompt": "2+2",
            "model": "m",
            "responses": ["4", "5"],
            "rewards": [1, 0.25],
            "logprobs": [[-1.0], [-2.0, -3.0]],
            "completion_ids": [[7], [8, 9]],
            "prompt_ids": [1, 2],
            "finish_reason": ["stop", "length"],
        }
        name, found = rollouts(lines(tmp_path / "x.jsonl", row))
        assert name == "rows"
        assert [(r.text, r.reward, r.finish_reason, r.response_token_ids.tolist()) for r in found] == [
            ("4", 1.0, "stop", [7]),
            ("5", 0.25, "length", [8, 9]),
        ]
        for change, words in (
            ({"rewards": [1]}, "2 responses, but reward is"),
            ({"rewards": 1}, "2 responses, but reward is 1"),
            ({"logprobs": [[-1.0], [-1.0]]}, "1 log-probs for 2 token ids"),
            ({"responses": [], "completion_ids": []}, "the list is empty"),
            ({"responses": ["4", None]}, None),  # its ids are there
            ({"responses": [], "completion_ids": None}, "the list is empty"),
            ({"responses": ["4", 5]}, "response is 5, not text"),
        ):
            path = lines(tmp_path / "x.jsonl", {**row, **change})
            if words is None:
                assert rollouts(path)[1][1].text is None
            else:
                with pytest.raises(BadRow, match=words):
                    rollouts(path)

    def test_a_csv_holds_lists_as_json(self, tmp_path) -> None:
        (tmp_path / "x.csv").write_text('prompt,response,response_token_ids,score\n2+2,4,"[7, 8]",true\n')
        (r,) = rollouts(tmp_path / "x.csv")[1]
        assert (r.text, r.response_token_ids.tolist(), r.reward) == ("4", [7, 8], 1.0)

    def test_rows_that_are_bad(self) -> None:
        for row, words in (
            ({"response": "4"}, "no problem"),
            ({"problem": "  ", "response": "4"}, "the problem is empty"),
            ({"problem": 3, "response": "4"}, "problem is 3, not text"),
            ({"problem": "\ud800", "response": "4"}, "half a surrogate pair"),
            ({"problem": "2+2"}, "no response"),
            ({"problem": "2+2", "response": "4", "is_correct": "18"}, "is '18', neither true nor false"),
            ({"problem": "2+2", "response": "4", "reward": float("nan")}, "reward is nan"),
            ({"problem": "2+2", "response": "4", "step": -1}, "step is -1"),
            ({"problem": "2+2", "response": "4", "step": 1.5}, "step is 1.5"),
            ({"problem": "2+2", "response": [{"role": "assistant", "tool_calls": [1]}]}, "calls tools"),
            ({"problem": [{"role": "user", "content": [{"type": "image"}]}], "response": "4"}, "other than text"),
        ):
            with pytest.raises(BadRow, match=words):
                list(formats.ROLLOUTS["rows"].rollouts(row, COLUMNS, "x.jsonl"))

    def test_columns_are_mapped_and_a_dot_reaches_into_a_struct(self) -> None:
        row = {"q": "2+2", "out": {"text": "4"}, "problem": "not this", "reward": None}
        columns = Columns({"problem": "q", "response": "out.text"})
        (r,) = formats.ROLLOUTS["rows"].rollouts(row, columns, "x.jsonl")
        assert (r.problem, r.text) == ("2+2", "4")
        with pytest.raises(BadRow, match="no column 'answer_text'; it has 'q', 'out'"):
            list(formats.ROLLOUTS["rows"].rollouts(row, Columns({"response": "answer_text"}), "x.jsonl"))
