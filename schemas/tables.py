"""All tables with their columns. A column never changes its meaning; a new meaning gets a new column.

Each column says its meaning, its unit, and what null means where null is allowed. The same text reaches SQL as a
column comment (`duckdb_columns()`).
"""

import pyarrow as pa

from schemas import enums
from schemas.pass_tables import PASS_TABLES
from schemas.table import FLOAT, INT, TEXT, Table
from schemas.table import Column as C

# Raised when an archive can no longer be read by adding columns. A new nullable column, or a column that may be null from
# now on, raises a table's `version` instead; an older archive gets it when it is opened.
ARCHIVE_FORMAT = 1
# The first reval that reads what this one writes: what an older one tells its user to install. Raise it with a version.
READABLE_SINCE = "0.6.0"
# The oldest archives that this one reads: those whose marker names this or a later reval as the first to read them.
OLDEST_READ = "0.6.0"

TOKENS = pa.list_(pa.int32())
LOGPROBS = pa.list_(pa.float32())
VERSIONS = COUNTS = pa.map_(pa.string(), pa.int64())
TIME = pa.timestamp("us", tz="UTC")

# What null means in several columns.
ELSEWHERE = "known by name only: it came with imported rollouts, its weights did not"
TEXT_ONLY = "imported as text, and no tokenizer was named"
UNSAID = "the imported file does not say"

_TABLES = (
    Table(
        "prompts",
        "One question with its gold answer.",
        ("prompt_id",),
        (
            C("prompt_id", TEXT, "Digest of source, problem and gold answer."),
            C("source", TEXT, "Where the question comes from: a generator's name or a file's."),
            C("split", TEXT, "What it may be used for; splits of a source share no problem.", enum=enums.Split),
            C("problem", TEXT, "The question as a person would read it, before the prompt template."),
            C("gold_answer", TEXT, "The right answer as the source writes it."),
            C("import_id", TEXT, "The import that brought it.", null="made here"),
            C("line", INT, "Its line, or its row, in the imported file, from 1.", null="it came from no file"),
        ),
        version=2,
    ),
    Table(
        "runs",
        "One named run of a flow: what it was asked to do.",
        ("run_id",),
        (
            C("run_id", TEXT, "The run's name."),
            C("flow", TEXT, "The flow that runs it: iterate or retrain."),
            C("recipe", TEXT, "The recipe it started from."),
            C("config", TEXT, "The settings that decide its rows, as JSON."),
            C("base_policy_id", TEXT, "The policy it starts from."),
            C("benchmark", TEXT, "What its policies are evaluated on; see evaluations. Several are separated by ', '."),
            C("n_iterations", INT, "Iterations asked for when it began; a later call may ask for more."),
            C("snapshot_id", TEXT, "The snapshot it began from.", null="it began on an empty archive"),
        ),
    ),
    Table(
        "policies",
        "One set of model weights.",
        ("policy_id",),
        (
            C("policy_id", TEXT, "The policy's name: its run and iteration, or its recipe and a digest."),
            C("parent_id", TEXT, "The policy it was trained from.", null="a base policy"),
            C("run_id", TEXT, "The run that trained it.", null="a base policy"),
            C("iteration", INT, "The iteration of that run, from 1.", null="a base policy"),
            C("pass_id", TEXT, "The training pass that made it.", null="a base policy"),
            C("weights_digest", TEXT, "SHA-256 over its safetensors files.", null=ELSEWHERE),
            C(
                "tokenizer_digest",
                TEXT,
                "SHA-256 over its tokenizer's files: policies that share it share token ids.",
                null=ELSEWHERE,
            ),
            C(
                "location",
                TEXT,
                "Its Hugging Face folder: relative to the archive, or absolute if kept elsewhere.",
                null=ELSEWHERE,
            ),
            C("n_parameters", INT, "Number of weights.", null=ELSEWHERE),
        ),
        version=2,
        span="policy_id",
    ),
    Table(
        "trajectories",
        "One rollout, without its tokens and text, which are in responses.",
        ("trajectory_id",),
        (
            C("trajectory_id", TEXT, "Digest of policy, prompt, sampling settings, seed and sample index."),
            C("group_id", TEXT, "The rollouts of one prompt generated together share it."),
            C("prompt_id", TEXT, "The prompt it answers."),
            C("policy_id", TEXT, "The policy that generated it."),
            C("run_id", TEXT, "The run that asked for it; of an imported rollout, its import_id."),
            C("iteration", INT, "The iteration of that run, from 1; 0 for an import that says none."),
            C("sample_index", INT, "Its place in the group, from 0."),
            C("temperature", FLOAT, "Sampling temperature.", null=UNSAID),
            C("max_response_tokens", INT, "Limit on the response, in tokens.", null=UNSAID),
            C(
                "seed",
                INT,
                "What the engine was seeded with before the shard; the sample also depends on its place in the shard.",
                null=UNSAID,
            ),
            C("engine", TEXT, "vllm or transformers; imported: it was made elsewhere."),
            C("engine_version", TEXT, "The engine package's version.", null=UNSAID),
            C("finish_reason", TEXT, "Why it ended.", enum=enums.FinishReason),
            C("n_prompt_tokens", INT, "Tokens in the prompt.", null=TEXT_ONLY),
            C(
                "n_response_tokens",
                INT,
                "Tokens in the response, end-of-sequence included; 0 if never generated.",
                null=TEXT_ONLY,
            ),
            C(
                "behaviour_logprob_sum",
                FLOAT,
                "Sum of behaviour_logprobs, in nats.",
                null="never generated, or not known",
            ),
            C("import_id", TEXT, "The import that brought it.", null="generated here"),
            C("line", INT, "Its line, or its row, in the imported file, from 1.", null="it came from no file"),
            C("tokenised_by", TEXT, "The tokenizer that made ids of imported text.", null="ids are the engine's own"),
            C(
                "tokenizer_digest",
                TEXT,
                "The tokenizer of its ids, if it was imported.",
                null="its policy's tokenizer",
            ),
        ),
        version=2,
        span="iteration",
    ),
    Table(
        "responses",
        "The tokens and the text of a rollout. The text is decoded from the token ids.",
        ("trajectory_id",),
        (
            C("trajectory_id", TEXT, "The rollout."),
            C("response_text", TEXT, "The response decoded, special tokens left out."),
            C("prompt_token_ids", TOKENS, "Token ids the engine was given.", null=TEXT_ONLY),
            C("response_token_ids", TOKENS, "Token ids it produced, end-of-sequence included.", null=TEXT_ONLY),
            C(
                "behaviour_logprobs",
                LOGPROBS,
                "Log-probability of each response token as sampled, in nats.",
                null="not known",
            ),
        ),
        version=2,
    ),
    Table(
        "engine_checks",
        "One comparison of the engine's log-probs with the trainer's, on the first batch after a weight change.",
        ("policy_id", "run_id", "iteration"),
        (
            C("policy_id", TEXT, "The policy the engine claimed to run."),
            C("run_id", TEXT, "The run."),
            C("iteration", INT, "The iteration whose batch was compared."),
            C("n_tokens", INT, "Response tokens compared."),
            C("mean_abs_logprob_gap", FLOAT, "Mean |engine log-prob - trainer log-prob| per token, in nats."),
        ),
    ),
    Table(
        "verdicts",
        "One judgement of one rollout by one verifier.",
        ("trajectory_id", "verifier_id"),
        (
            C("trajectory_id", TEXT, "The rollout judged."),
            C(
                "verifier_id",
                TEXT,
                "Verifier name, version and library version; 'imported' for labels of an imported file.",
            ),
            C("verdict", TEXT, "The judgement.", enum=enums.Verdict),
            C(
                "reward",
                FLOAT,
                "1 for correct, 0 for wrong or no_answer; what the file says, if imported, or a user's function.",
                null="no judgement was reached",
            ),
            C(
                "extracted_answer",
                TEXT,
                "The answer as read from the response, cut at 1,000 characters.",
                null="none was read",
            ),
            C(
                "seconds",
                FLOAT,
                "Seconds the check took; 0 if the same answer to the same gold answer was checked beside it.",
                null="it came with an imported file",
            ),
            C("iteration", INT, "The rollout's iteration, as in trajectories."),
        ),
        version=3,
        span="iteration",
    ),
    *PASS_TABLES,
    Table(
        "evaluations",
        "One answer of one policy to one benchmark prompt.",
        ("policy_id", "benchmark", "temperature", "prompt_id", "sample_index"),
        (
            C("policy_id", TEXT, "The policy evaluated."),
            C("benchmark", TEXT, "What it was evaluated on: source, split, and a digest of prompt, limits and number."),
            C("temperature", FLOAT, "Sampling temperature; 0 is greedy."),
            C("prompt_id", TEXT, "The prompt."),
            C("sample_index", INT, "Which of the k answers, from 0."),
            C("verifier_id", TEXT, "The verifier that judged it."),
            C("verdict", TEXT, "The judgement.", enum=enums.Verdict),
            C("reward", FLOAT, "1 for correct, 0 for wrong or no_answer.", null="no judgement was reached"),
            C("finish_reason", TEXT, "Why the answer ended.", enum=enums.FinishReason),
            C("n_response_tokens", INT, "Tokens in the answer."),
            C("response_text", TEXT, "The answer decoded."),
            C(
                "extracted_answer",
                TEXT,
                "The answer as read from the text, cut at 1,000 characters.",
                null="none was read",
            ),
        ),
        version=2,
    ),
    Table(
        "snapshots",
        "One name for one state of the whole archive, written at the end of every stage.",
        ("snapshot_id",),
        (
            C("snapshot_id", TEXT, "The snapshot's name."),
            C("created_at", TIME, "When it was made, UTC."),
            C("stage", TEXT, "The stage that ended; 'iteration' ends a whole iteration."),
            C("run_id", TEXT, "The run.", null="outside any run"),
            C("iteration", INT, "The iteration; 0 is before the first.", null="outside any run"),
            C(
                "seconds",
                FLOAT,
                "The stage's own compute; for 'iteration', its wall time.",
                null="it did not run in one go",
            ),
            C(
                "versions",
                VERSIONS,
                "Delta version of every table.",
                null="its state is not kept here: it came with an import",
            ),
            C("n_rows", COUNTS, "Rows of every table in that state."),
        ),
        version=2,
    ),
    Table(
        "labels",
        "A name a person gave to a snapshot.",
        ("label",),
        (
            C("label", TEXT, "The name."),
            C("snapshot_id", TEXT, "The snapshot it names, for ever."),
            C("created_at", TIME, "When it was given, UTC."),
        ),
    ),
    Table(
        "imports",
        "One file, or the rollouts of another archive, brought into this one.",
        ("import_id",),
        (
            C("import_id", TEXT, "The file's name and a digest of its contents and of how it was read."),
            C("kind", TEXT, "What it was read as.", enum=enums.Imported),
            C("file", TEXT, "The file or folder, as named; of an archive, where it is."),
            C("file_digest", TEXT, "SHA-256 of its contents; of an archive, a digest of its rollouts and verdicts."),
            C("format", TEXT, "The format it was read as."),
            C("how", TEXT, "Column map, source, policy, tokenizer and split, as JSON; of an archive, its snapshot."),
            C("n_added", INT, "Prompts or rollouts it added."),
            C("n_known", INT, "Rows that were in the archive already."),
            C("n_rejected", INT, "Rows that could not be read; they are in rejects."),
            C("created_at", TIME, "When it was imported, UTC."),
        ),
    ),
    Table(
        "rejects",
        "One row of an imported file that could not be read, and why.",
        ("import_id", "file", "line"),
        (
            C("import_id", TEXT, "The import."),
            C("file", TEXT, "The file; of a folder, the file in it."),
            C("line", INT, "The line, or the row, from 1."),
            C("reason", TEXT, "What is wrong with it."),
            C("row", TEXT, "Its beginning, as it stands there."),
        ),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
