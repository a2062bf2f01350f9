-- Inputs: source, seed, iteration, n_prompts. One row per prompt an iteration generates from, in order.
-- An epoch is a shuffle of the training prompts by a keyed digest, cut into whole iterations. No prompt comes twice in
-- one iteration, and none comes again before all others have come (except a remainder that is too small for an
-- iteration).
WITH pool AS (
    SELECT prompt_id, problem, greatest(1, count(*) OVER () // $n_prompts) AS iterations_per_epoch
    FROM prompts
    WHERE source = $source AND split = 'train'
),
shuffled AS (
    SELECT
        prompt_id, problem, ($iteration - 1) % iterations_per_epoch AS turn,
        row_number() OVER (
            ORDER BY md5(concat_ws('/', $seed, ($iteration - 1) // iterations_per_epoch, prompt_id))
        ) - 1 AS place
    FROM pool
)
SELECT prompt_id, problem
FROM shuffled
WHERE place // $n_prompts = turn
ORDER BY place
