-- Inputs: source, max_prompts, policy_id, benchmark, temperature, n_samples. One row per held-out prompt, of the first
-- max_prompts by id, that the policy has not answered n_samples times yet, by id.
WITH benchmark AS (
    SELECT prompt_id, problem, gold_answer
    FROM prompts
    WHERE source = $source AND split = 'heldout'
    ORDER BY prompt_id
    LIMIT $max_prompts
)
SELECT p.prompt_id, p.problem, p.gold_answer
FROM benchmark p
ANTI JOIN (
    SELECT prompt_id
    FROM evaluations
    WHERE policy_id = $policy_id AND benchmark = $benchmark AND temperature = $temperature
    GROUP BY prompt_id
    HAVING count(*) >= $n_samples
) e USING (prompt_id)
ORDER BY p.prompt_id
