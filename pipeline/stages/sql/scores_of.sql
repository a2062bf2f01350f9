-- Inputs: policy_id. One row per figure of the policy's evaluations. Ordered by benchmark, temperature, kind (avg, pass,
-- maj), j.
SELECT policy_id, benchmark, temperature, score, value, low, high, n_prompts, n_too_long
FROM scores
WHERE policy_id = $policy_id
ORDER BY benchmark, temperature, kind = 'maj', kind, j
