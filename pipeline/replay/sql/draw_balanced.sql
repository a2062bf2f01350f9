-- balanced: a prompt with pass rate p in the newest window_trajectories weighs exp(-(p - 1/2)^2 / (2 sigma^2)), and its
-- rows share this weight equally. `rest` leaves out prompts that are always solved, never solved, or both kinds. After
-- ExGRPO (arXiv 2510.02245). Inputs: the candidates; window_trajectories (null: all), sigma, rest.
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
WITH recent AS (
    SELECT trajectory_id, age_iterations, prompt_id, verdict
    FROM candidates
    WHERE $window_trajectories IS NULL OR newest <= $window_trajectories
),
rated AS (
    SELECT prompt_id, avg((verdict = 'correct')::INT) AS pass_rate, count(*) AS n FROM recent GROUP BY prompt_id
)
SELECT
    trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations,
    exp(-((pass_rate - 0.5) ** 2) / (2 * $sigma::DOUBLE ** 2)) / n AS chance
FROM recent
JOIN rated USING (prompt_id)
WHERE NOT (pass_rate = 1 AND $rest IN ('solved', 'both')) AND NOT (pass_rate = 0 AND $rest IN ('unsolved', 'both'))
