-- One row per trajectory whose token counts or log-prob sum do not match its token ids and log-probs. No order.
SELECT t.trajectory_id AS row, 'its token counts or its log-prob sum are not those of its response' AS problem
FROM trajectories t
JOIN responses r USING (trajectory_id)
WHERE t.n_prompt_tokens IS DISTINCT FROM len(r.prompt_token_ids)
    OR t.n_response_tokens IS DISTINCT FROM len(r.response_token_ids)
    OR len(r.behaviour_logprobs) <> len(r.response_token_ids)
    OR abs(t.behaviour_logprob_sum - list_sum(list_transform(r.behaviour_logprobs, lambda x: x::DOUBLE)))
        > 1e-5 * greatest(1, abs(t.behaviour_logprob_sum))
