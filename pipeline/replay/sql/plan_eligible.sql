-- Inputs: since and now (iterations), n_prompts, n_samples, and recipe, source, temperature and n_response_tokens, which
-- are the same in every row. Made-up rows with the columns of eligible: one per rollout of iterations `since` to `now`.
-- Each iteration has its own prompts. No order. The pass rates of the prompts are spread evenly from 0 to 1. A keyed
-- digest replaces random numbers: the rows are the same every time.
WITH made AS (
    SELECT
        i.range AS iteration, s.range AS sample_index,
        concat_ws('/', i.range, p.range) AS prompt_id, concat_ws('/', i.range, p.range, s.range) AS trajectory_id
    FROM range($since, $now + 1) i, range($n_prompts) p, range($n_samples) s
),
judged AS (
    SELECT
        iteration, sample_index, prompt_id, trajectory_id,
        left(md5('answer/' || trajectory_id), 13) < left(md5('pass rate/' || prompt_id), 13) AS is_right
    FROM made
)
SELECT
    trajectory_id, prompt_id AS group_id, prompt_id, concat($recipe, '-', iteration - 1) AS policy_id, $recipe AS run_id,
    $source AS source, iteration, sample_index, $now - iteration AS age_iterations,
    if(is_right, 'correct', 'wrong') AS verdict, is_right::DOUBLE AS reward, $temperature::DOUBLE AS temperature,
    'stop' AS finish_reason, 1 AS n_prompt_tokens, $n_response_tokens AS n_response_tokens,
    -$n_response_tokens::DOUBLE AS behaviour_logprob_sum
FROM judged
