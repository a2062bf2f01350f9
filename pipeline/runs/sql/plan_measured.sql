-- Inputs: recipe, base (the setting policy.base), any_run. One row: measurements of runs like a planned one (null: none).
-- Runs of the same recipe or the same base policy are like it; if there are none and any_run is true, all runs are.
-- Seconds are medians over iterations, because the first iteration also starts an engine and a trainer.
WITH begun AS (
    SELECT run_id, recipe, base_policy_id, policy_base AS base FROM run_settings
),
alike AS (
    SELECT run_id FROM begun WHERE recipe = $recipe OR base = $base
),
made AS (
    SELECT run_id, iteration, n_response_tokens
    FROM trajectories
    WHERE run_id IN (FROM alike) OR ($any_run AND NOT EXISTS (FROM alike))
),
generated AS (
    SELECT run_id, iteration, count(*) AS n FROM made GROUP BY ALL
),
times AS (
    SELECT s.seconds / g.n AS generate_seconds, p.seconds / p.n_draws AS train_seconds
    FROM generated g
    JOIN snapshots s ON s.run_id = g.run_id AND s.iteration = g.iteration AND s.stage = 'generate'
    JOIN passes p ON p.run_id = g.run_id AND p.iteration = g.iteration AND p.n_draws > 0
)
SELECT
    (SELECT count(*) FROM made WHERE n_response_tokens > 0) AS n_responses,
    (SELECT avg(n_response_tokens) FROM made WHERE n_response_tokens > 0) AS response_tokens,
    (
        SELECT max(n_parameters) FROM policies WHERE policy_id IN (SELECT base_policy_id FROM begun WHERE base = $base)
    ) AS n_parameters,
    count(*) FILTER (generate_seconds IS NOT NULL) AS n_iterations,
    median(generate_seconds) AS generate_seconds,
    median(train_seconds) FILTER (generate_seconds IS NOT NULL) AS train_seconds
FROM times
