-- The view for draw rules and for a user's own weight: one row per rollout that may be drawn. No order.
--   trajectory_id, group_id, prompt_id, policy_id, run_id, source, iteration, sample_index    which rollout it is
--   age_iterations      from its generation to the newest rollout the pass can see
--   newest              its rank from 1, newest iteration first
--   verdict, reward     the judgement
--   baseline, target    what is subtracted from the reward, and (reward - baseline) / beta in nats
--   deviation           standard deviation (n - 1) of the rewards of its group; 0 for a group of one
--   n_uses, residual    how often passes that led to the policy trained on it; its last residual, of Eq. 2 (null: never)
--   temperature, finish_reason, n_prompt_tokens, n_response_tokens, behaviour_logprob_sum     as in trajectories
-- Reads the tables eligible, left_out and history, and the variables baseline and beta.
WITH judged AS (
    SELECT
        *,
        CASE getvariable('baseline') WHEN 'group_mean' THEN 1.0 WHEN 'half_mean' THEN 0.5 ELSE 0 END
            * avg(reward) OVER by_group AS baseline,
        coalesce(stddev_samp(reward) OVER by_group, 0) AS deviation
    FROM eligible
    -- Ordered, because a sum of floats depends on the order: so the bits are the same for any thread count and file layout.
    WINDOW by_group AS (PARTITION BY group_id ORDER BY reward ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
)
SELECT
    j.trajectory_id, j.group_id, j.prompt_id, j.policy_id, j.run_id, j.source, j.iteration, j.sample_index,
    j.age_iterations,
    row_number() OVER (ORDER BY j.iteration DESC, j.group_id, j.sample_index) AS newest,
    j.verdict, j.reward, j.baseline, (j.reward - j.baseline) / getvariable('beta') AS target, j.deviation,
    coalesce(h.n_uses, 0) AS n_uses, h.residual,
    j.temperature, j.finish_reason, j.n_prompt_tokens, j.n_response_tokens, j.behaviour_logprob_sum
FROM judged j
ANTI JOIN left_out USING (trajectory_id)
LEFT JOIN history h ON h.trajectory_id = j.trajectory_id
