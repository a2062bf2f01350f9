-- rollouts: one row per trajectory with its prompt, text and verdict (of several, the last by verifier_id): the join a
-- person wants.
-- verdict, reward and extracted_answer are null until the trajectory is scored. No order.
WITH judged AS (
    SELECT trajectory_id, verifier_id, verdict, reward, extracted_answer
    FROM verdicts
    QUALIFY row_number() OVER (PARTITION BY trajectory_id ORDER BY verifier_id DESC) = 1
)
SELECT
    t.run_id, t.iteration, t.policy_id, t.trajectory_id, t.group_id, t.sample_index,
    p.prompt_id, p.source, p.split, p.problem, p.gold_answer,
    r.response_text, j.extracted_answer, j.verdict, j.reward, j.verifier_id,
    t.finish_reason, t.n_prompt_tokens, t.n_response_tokens, t.temperature, t.behaviour_logprob_sum
FROM trajectories t
JOIN prompts p USING (prompt_id)
LEFT JOIN responses r USING (trajectory_id)
LEFT JOIN judged j USING (trajectory_id)
