-- Inputs: runs and policies (lists; empty: all), tokenizer_digest (of the policy to be trained), verifier_id, now and
-- since (iterations), length_penalty and length_buffer_tokens (pipeline/recipes/config.py, Reward); the table shaping
-- (verdict, worth): the reward of a verdict. A verdict that is not in it has the verifier's reward.
-- One row per trajectory of iteration `since` or later that can be trained on: generated and judged. No order. Token ids
-- mean nothing to a policy with another tokenizer, so such rollouts are left out, and so is text without ids. A
-- trajectory without a judgement (timeout, crashed, bad_gold) has no reward and is left out, unless shaping gives it one.
-- Held-out questions are not trained on, no matter which policy answered them.
SELECT
    t.trajectory_id, t.group_id, t.prompt_id, t.policy_id, t.run_id, q.source, t.iteration, t.sample_index,
    $now - t.iteration AS age_iterations, v.verdict,
    coalesce(s.worth, v.reward) - coalesce($length_penalty * greatest(0, least(1,
        (t.n_response_tokens - (t.max_response_tokens - $length_buffer_tokens)) / $length_buffer_tokens)), 0) AS reward,
    t.temperature, t.finish_reason,
    t.n_prompt_tokens, t.n_response_tokens, t.behaviour_logprob_sum
FROM trajectories t
JOIN policies p ON p.policy_id = t.policy_id
JOIN prompts q ON q.prompt_id = t.prompt_id AND q.split = 'train'
JOIN verdicts v ON v.trajectory_id = t.trajectory_id AND v.verifier_id = $verifier_id
LEFT JOIN shaping s ON s.verdict = v.verdict
WHERE coalesce(s.worth, v.reward) IS NOT NULL
    AND t.n_prompt_tokens > 0
    AND t.n_response_tokens > 0
    AND coalesce(t.tokenizer_digest, p.tokenizer_digest) = $tokenizer_digest
    AND t.iteration >= $since
    AND v.iteration >= $since
    AND (len($runs) = 0 OR list_contains($runs, t.run_id))
    AND (len($policies) = 0 OR list_contains($policies, t.policy_id))
