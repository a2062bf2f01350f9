-- Inputs: policy_id. One row per benchmark and temperature the policy was evaluated at; accuracy is the mean over
-- prompts and their answers, an answer without a judgement counting as not correct. Ordered by benchmark, temperature.
SELECT
    policy_id, benchmark, temperature,
    count(DISTINCT prompt_id) AS n_prompts,
    count(*) // count(DISTINCT prompt_id) AS k,
    avg((verdict = 'correct')::INT) AS accuracy
FROM evaluations
WHERE policy_id = $policy_id
GROUP BY ALL
ORDER BY benchmark, temperature
