"""The tables of a training pass: references, draws, updates, steps and passes. tables.py has the others."""

from schemas import enums
from schemas.table import FLOAT, INT, TEXT, Table
from schemas.table import Column as C

# What null means in two columns.
WAITED = "it made no update: there was too little to draw"

PASS_TABLES = (
    Table(
        "references",
        "Two numbers of the reference policy for Eq. 2, per rollout and precision. A reset is a new reference_id.",
        ("trajectory_id", "reference_id", "precision"),
        (
            C("trajectory_id", TEXT, "The rollout."),
            C("reference_id", TEXT, "The policy that is the reference."),
            C("ref_logprob_sum", FLOAT, "Sum over response tokens of log pi_ref, in nats, temperature 1."),
            C("ref_value", FLOAT, "V_ref(s1): logsumexp of the logits at the last prompt position, in nats."),
            C("pass_id", TEXT, "The pass it was computed for.", null="computed by `reval check --repair`"),
            C("precision", TEXT, "What it was computed in.", enum=enums.Precision),
        ),
        version=3,
    ),
    Table(
        "draws",
        "One rollout in one update of a pass, written before the pass begins: these rows are what it trains on.",
        ("pass_id", "update", "slot"),
        (
            C("pass_id", TEXT, "The training pass."),
            C("update", INT, "The optimizer step within the pass, from 0."),
            C("slot", INT, "The place within the update, from 0."),
            C("trajectory_id", TEXT, "The rollout drawn."),
            C("source", TEXT, "Which part of the schedule drew it.", enum=enums.Source),
            C("age_iterations", INT, "Iterations from its generation to the newest rollout the pass could see."),
            C("weight", FLOAT, "Factor on its loss; 1 where the rule draws without bias."),
            C("reward", FLOAT, "Its reward at the pass's snapshot, by the recipe's section reward."),
            C("baseline", FLOAT, "What is subtracted from the reward to make the target; 0 for raw."),
            C("rule", TEXT, "The draw rule that took it; fresh: it is of the newest batch."),
            C(
                "deviation",
                FLOAT,
                "Standard deviation (n - 1) of the rewards of its group, which grpo divides by; 0 for a group of one.",
            ),
        ),
        version=3,
        span="pass_id",
    ),
    Table(
        "updates",
        "The terms of Eq. 2 for each draw, measured just before the optimizer step.",
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
            C("entropy", FLOAT, "Mean over its response tokens of the policy's entropy there, in nats."),
            C("clipped_share", FLOAT, "Part of its response tokens whose ratio was clipped.", null="nothing clips them"),
        ),
        version=2,
        span="pass_id",
    ),
    Table(
        "steps",
        "One optimizer step of a pass.",
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
            C("reference_id", TEXT, "The reference policy.", null="of each row the policy that generated it"),
            C("snapshot_id", TEXT, "The snapshot its draws were made from."),
            C("objective", TEXT, "The loss."),
            C("config", TEXT, "The settings of its run, as JSON."),
            C("verifier_id", TEXT, "The verifier whose verdicts it drew from."),
            C("micro_batch_tokens", INT, "Tokens in one forward pass: it decides the rounding."),
            C("batching", TEXT, "How rows were put together.", enum=enums.Batching),
            C("n_updates", INT, "Optimizer steps."),
            C("n_draws", INT, "Rows trained on, over all updates."),
            C("n_tokens", INT, "Prompt and response tokens trained on, over all updates."),
            C("loss", FLOAT, "Mean over updates of the update's loss, each before its step.", null=WAITED),
            C("grad_norm", FLOAT, "Mean over updates of the gradient norm before clipping.", null=WAITED),
            C("seconds", FLOAT, "Seconds the pass took, model loading and saving included."),
        ),
        version=6,
    ),
)
