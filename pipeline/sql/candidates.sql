-- Inputs: run_id (null: every run), policy_id (to be trained), verifier_id, baseline. One row per trajectory that can be trained on: generated and
-- judged, with its target's two parts and its age. `newest` ranks from 1, newest iteration first. No order.
-- Token ids mean nothing to a policy with another tokenizer: such rollouts are no candidates, nor is text without ids.
-- A trajectory without a judgement (timeout, crashed, bad_gold) has no reward and is no candidate.
-- Held-out questions are not trained on, whoever answered them.
SELECT
    t.trajectory_id,
    (SELECT max(iteration) FROM trajectories WHERE $run_id IS NULL OR run_id = $run_id) - t.iteration AS age_iterations,
    row_number() OVER (ORDER BY t.iteration DESC, t.group_id, t.sample_index) AS newest,
    v.reward,
    CASE $baseline WHEN 'group_mean' THEN avg(v.reward) OVER (PARTITION BY t.group_id) ELSE 0 END AS baseline
FROM trajectories t
JOIN policies p ON p.policy_id = t.policy_id
JOIN prompts q ON q.prompt_id = t.prompt_id AND q.split = 'train'
JOIN verdicts v ON v.trajectory_id = t.trajectory_id AND v.verifier_id = $verifier_id
WHERE v.reward IS NOT NULL
    AND t.n_prompt_tokens > 0
    AND t.n_response_tokens > 0
    AND coalesce(t.tokenizer_digest, p.tokenizer_digest) = (SELECT tokenizer_digest FROM policies WHERE policy_id = $policy_id)
    AND ($run_id IS NULL OR t.run_id = $run_id)
