"""The tables. A column keeps one meaning for ever; new meaning is a new column.

Each column says its meaning, its unit, and what null means where null is allowed. The same text reaches SQL as a
column comment (`duckdb_columns()`).
"""

import pyarrow as pa

from schemas import enums
from schemas.table import Column, Table

# Raised when an archive of before can no longer be read at all. A nullable column more, or a column that may now be
# null, is a table's `version` instead, and old archives take it on when they are opened.
ARCHIVE_FORMAT = 1
# The first reval that reads what this one writes: what an older one tells its user to install.
READABLE_SINCE = "0.4.0"

TEXT, INT, FLOAT = pa.string(), pa.int64(), pa.float64()
TOKENS = pa.list_(pa.int32())
LOGPROBS = pa.list_(pa.float32())
VERSIONS = COUNTS = pa.map_(pa.string(), pa.int64())
TIME = pa.timestamp("us", tz="UTC")


C = Column

# What null means in several columns.
ELSEWHERE = "known by name only: it came with imported rollouts, its weights did not"
TEXT_ONLY = "imported as text, and no tokenizer was named"
UNSAID = "the imported file does not say"
WAITED = "it made no update: there was too little to draw"

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
            C("benchmark", TEXT, "What its policies are evaluated on; see evaluations."),
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
        "One rollout, narrow: what SQL scans. Its tokens and text are in responses.",
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
                "What the engine was seeded with before the shard; with the place in it, not a row's own.",
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
            C("tokenizer_digest", TEXT, "The tokenizer its ids are of, if it was imported.", null="its policy's"),
        ),
        version=2,
        span="iteration",
    ),
    Table(
        "responses",
        "The wide half of a rollout: token ids (the truth) and text (derived from them).",
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
            C("iteration", INT, "The rollout's iteration, as in trajectories.", null="made by reval 0.2 or before"),
        ),
        version=3,
        span="iteration",
    ),
    Table(
        "references",
        "The two scalars Eq. 2 needs of the reference policy, per rollout. A reset is a new reference_id.",
        ("trajectory_id", "reference_id"),
        (
            C("trajectory_id", TEXT, "The rollout."),
            C("reference_id", TEXT, "The policy that is the reference."),
            C("ref_logprob_sum", FLOAT, "Sum over response tokens of log pi_ref, in nats, temperature 1."),
            C("ref_value", FLOAT, "V_ref(s1): logsumexp of the logits at the last prompt position, in nats."),
            C("pass_id", TEXT, "The pass it was computed for.", null="by `reval check --repair`, or by reval 0.2"),
            C("precision", TEXT, "What it was computed in.", enum=enums.Precision, null="reval 0.4 or before: float32"),
        ),
        version=3,
    ),
    Table(
        "draws",
        "One rollout in one update of a pass, written before the pass begins: all that decides what it trains on.",
        ("pass_id", "update", "slot"),
        (
            C("pass_id", TEXT, "The training pass."),
            C("update", INT, "The optimizer step within the pass, from 0."),
            C("slot", INT, "The place within the update, from 0."),
            C("trajectory_id", TEXT, "The rollout drawn."),
            C("source", TEXT, "Which part of the schedule drew it.", enum=enums.Source),
            C("age_iterations", INT, "Iterations from its generation to the newest rollout the pass could see."),
            C("weight", FLOAT, "Factor on its loss; 1 where the rule draws without bias."),
            C("reward", FLOAT, "Its reward at the pass's snapshot, as the recipe's [reward] has it."),
            C("baseline", FLOAT, "What is subtracted from the reward to make the target; 0 for raw."),
            C("rule", TEXT, "The draw rule that took it; fresh: it is of the newest batch.", null="made by reval 0.2"),
            C(
                "deviation",
                FLOAT,
                "Standard deviation (n - 1) of the rewards of its group, which grpo divides by; 0 for a group of one.",
                null="made by reval 0.4 or before",
            ),
        ),
        version=3,
        span="pass_id",
    ),
    Table(
        "updates",
        "What Eq. 2 came to for each draw, measured just before the optimizer step.",
        ("pass_id", "update", "slot"),
        (
            C("pass_id", TEXT, "The training pass."),
            C("update", INT, "The optimizer step within the pass, from 0."),
            C("slot", INT, "The place within the update, from 0."),
            C("residual", FLOAT, "value_gap + log_ratio - target (Eq. 2); for tbrm and tba what they square instead."),
            C(
                "value_gap",
                FLOAT,
                "V_theta(s1) - V_ref(s1), in nats; for tbrm V_theta(s1), for tba minus the group's mean.",
            ),
            C("log_ratio", FLOAT, "Sum over response tokens of log pi_theta - log pi_ref, in nats."),
            C("target", FLOAT, "(reward - baseline) / beta, in nats."),
            C(
                "entropy",
                FLOAT,
                "Mean over its response tokens of the policy's entropy there, in nats.",
                null="made by reval 0.4 or before",
            ),
            C("clipped_share", FLOAT, "Part of its response tokens whose ratio was clipped.", null="nothing clips them"),
        ),
        version=2,
        span="pass_id",
    ),
    Table(
        "steps",
        "One optimizer step of a pass. Archives of reval 0.4 and before have none for their passes.",
        ("pass_id", "update"),
        (
            C("pass_id", TEXT, "The training pass."),
            C("update", INT, "The step within the pass, from 0."),
            C("n_trajectories", INT, "Rows trained on, by which the loss is divided."),
            C("n_tokens", INT, "Their prompt and response tokens."),
            C("n_padding_tokens", INT, "Tokens computed beside these to fill batches up."),
            C("loss", FLOAT, "The objective before the step."),
            C("grad_norm", FLOAT, "Norm of the gradient before it was clipped."),
            C("learning_rate", FLOAT, "The step's learning rate."),
            C("entropy", FLOAT, "Mean of the policy's entropy over all response tokens, in nats."),
            C("log_ratio", FLOAT, "Mean of its rows' log_ratio: of rows the policy has just made, KL to the reference."),
            C("seconds", FLOAT, "Seconds it took."),
            C("peak_memory_bytes", INT, "Most memory held until then: a GPU's, or the process's on a CPU."),
            C(
                "flop_utilisation",
                FLOAT,
                "Floating-point operations of the model a second, over what the device can do.",
                null="on a CPU, or a GPU whose peak is not known",
            ),
        ),
        span="pass_id",
    ),
    Table(
        "passes",
        "One training pass: from a parent policy and its draws to a new policy.",
        ("pass_id",),
        (
            C("pass_id", TEXT, "The pass's name, also that of the policy it made."),
            C("run_id", TEXT, "The run."),
            C("iteration", INT, "The iteration of that run, from 1."),
            C("policy_id", TEXT, "The policy it made."),
            C("parent_id", TEXT, "The policy it started from."),
            C("reference_id", TEXT, "The reference policy."),
            C("snapshot_id", TEXT, "The snapshot its draws were made from."),
            C("objective", TEXT, "The loss."),
            C("config", TEXT, "The settings of its run, as JSON."),
            C("verifier_id", TEXT, "The verifier whose verdicts it drew from.", null="made by reval 0.3 or before"),
            C(
                "micro_batch_tokens",
                INT,
                "Tokens in one forward pass: it decides the rounding.",
                null="made by reval 0.1",
            ),
            C("batching", TEXT, "How rows were put together.", enum=enums.Batching, null="reval 0.4 or before: padded"),
            C("n_updates", INT, "Optimizer steps."),
            C("n_draws", INT, "Rows trained on, over all updates."),
            C("n_tokens", INT, "Prompt and response tokens trained on, over all updates."),
            C("loss", FLOAT, "Mean over updates of the update's loss, each before its step.", null=WAITED),
            C("grad_norm", FLOAT, "Mean over updates of the gradient norm before clipping.", null=WAITED),
            C("seconds", FLOAT, "Seconds the pass took, model loading and saving included."),
        ),
        version=5,
    ),
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
        ),
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
            C("n_rows", COUNTS, "Rows of every table in that state.", null="made by reval 0.1"),
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
