-- update_rows: one row per draw: the rollout that an update trained on, and the terms of Eq. 2 for it. A pass appears as
-- soon as its draws are made, before it is trained. No order.
--   pass_id, update, slot, source, rule, age_iterations, weight, reward, baseline, deviation    as in draws
--   run_id, iteration    of the pass
--   target, residual, value_gap, log_ratio, entropy, clipped_share    as in updates; null: not trained yet, or null there
--   trajectory_id, policy_id, n_response_tokens    as in trajectories
--   prompt_id, problem, gold_answer    as in prompts
--   response_text    as in responses; null: the response is lost
SELECT
    d.pass_id, p.run_id, p.iteration,
    d.update, d.slot, d.source, d.rule, d.age_iterations, d.weight, d.reward, d.baseline, d.deviation,
    u.target, u.residual, u.value_gap, u.log_ratio, u.entropy, u.clipped_share,
    d.trajectory_id, t.policy_id, t.prompt_id, q.problem, q.gold_answer, r.response_text, t.n_response_tokens
FROM draws d
JOIN trajectories t USING (trajectory_id)
JOIN prompts q USING (prompt_id)
LEFT JOIN pass_names p ON p.pass_id = d.pass_id
LEFT JOIN updates u ON u.pass_id = d.pass_id AND u.update = d.update AND u.slot = d.slot
LEFT JOIN responses r ON r.trajectory_id = d.trajectory_id
