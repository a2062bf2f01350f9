-- Inputs: source, max_prompts, policy_id, benchmark, temperature, n_samples. One row per held-out prompt, of the first
-- max_prompts by id (null: of all), that the policy has answered fewer than n_samples times, with its number of answers.
-- Ordered by this number and by id.
WITH benchmark AS (
    SELECT prompt_id, problem, gold_answer
    FROM prompts
    WHERE source = $source AND split = 'heldout'
    ORDER BY prompt_id
    LIMIT $max_prompts
)
SELECT b.prompt_id, b.problem, b.gold_answer, coalesce(e.n_answered, 0) AS n_answered
FROM benchmark b
LEFT JOIN (
    SELECT prompt_id, count(*) AS n_answered
    FROM evaluations
    WHERE policy_id = $policy_id AND benchmark = $benchmark AND temperature = $temperature
    GROUP BY prompt_id
) e USING (prompt_id)
WHERE coalesce(e.n_answered, 0) < $n_samples
ORDER BY n_answered, b.prompt_id
