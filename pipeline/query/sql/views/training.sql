-- training: one row per finished training pass, with statistics of its optimizer steps. No order.
--   run_id, iteration, pass_id    as in passes
--   learning_rate, entropy        means over its steps; entropy in nats per token
--   clipped_share                 share of its steps whose gradient was clipped: its norm was above train.max_grad_norm
--   clipped_token_share           share of a draw's tokens whose ratio was clipped, mean over draws; null: the objective
--                                 does not clip
--   residual_rms, value_gap_rms, log_ratio_rms, target_rms    root mean squares over its draws, in nats: of the residual
--                                 and of its parts
--   kl                            KL(parent ‖ reference) in nats per response, estimated before the first step as the
--                                 mean log-ratio of the draws that the pass's parent generated; null: the first
--                                 update has no such draw
--   tokens_per_second             prompt and response tokens divided by the seconds of its steps
--   padding_share                 share of the computed tokens that are padding
--   peak_memory_bytes             the largest value of its steps
--   flop_utilisation              mean over its steps, weighted by seconds; null: on a CPU, or a GPU of unknown peak
-- All but the first three are null for a pass that made no update.
WITH stepped AS (
    SELECT
        s.pass_id,
        avg(s.learning_rate) AS learning_rate,
        avg(s.entropy) AS entropy,
        avg((s.grad_norm > r.train_max_grad_norm)::INT) AS clipped_share,
        sum(s.n_tokens) / sum(s.seconds) AS tokens_per_second,
        sum(s.n_padding_tokens) / sum(s.n_tokens + s.n_padding_tokens) AS padding_share,
        max(s.peak_memory_bytes) AS peak_memory_bytes,
        sum(s.flop_utilisation * s.seconds) / sum(s.seconds) FILTER (s.flop_utilisation IS NOT NULL) AS flop_utilisation
    FROM steps s
    JOIN passes p USING (pass_id)
    LEFT JOIN run_settings r USING (run_id)
    GROUP BY s.pass_id
),
measured AS (
    SELECT
        pass_id,
        avg(clipped_share) AS clipped_token_share,
        sqrt(avg(residual ** 2)) AS residual_rms,
        sqrt(avg(value_gap ** 2)) AS value_gap_rms,
        sqrt(avg(log_ratio ** 2)) AS log_ratio_rms,
        sqrt(avg(target ** 2)) AS target_rms
    FROM updates
    GROUP BY pass_id
),
own AS (
    SELECT u.pass_id, avg(u.log_ratio) AS kl
    FROM updates u
    JOIN draws d ON d.pass_id = u.pass_id AND d.update = 0 AND d.slot = u.slot
    JOIN trajectories t ON t.trajectory_id = d.trajectory_id
    JOIN passes p ON p.pass_id = u.pass_id AND p.parent_id = t.policy_id
    WHERE u.update = 0
    GROUP BY u.pass_id
)
SELECT
    p.run_id, p.iteration, p.pass_id,
    s.learning_rate, s.entropy, s.clipped_share, m.clipped_token_share,
    m.residual_rms, m.value_gap_rms, m.log_ratio_rms, m.target_rms, o.kl,
    s.tokens_per_second, s.padding_share, s.peak_memory_bytes, s.flop_utilisation
FROM passes p
LEFT JOIN stepped s USING (pass_id)
LEFT JOIN measured m USING (pass_id)
LEFT JOIN own o USING (pass_id)
