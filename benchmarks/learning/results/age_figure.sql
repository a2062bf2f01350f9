-- ages.png: one row per arm and age of a row in iterations: how far off its residual was when it was trained on.
-- Over ages (ages.parquet) and accuracies, whose runs alone count. Inputs: task. Ordered by arm and age.
SELECT
    arm, age_iterations, sum(n_draws) AS n_draws,
    sqrt(sum(n_draws * residual_rms ** 2) / sum(n_draws)) AS residual_rms,
    sqrt(sum(n_draws * log_ratio_rms ** 2) / sum(n_draws)) AS log_ratio_rms
FROM ages
WHERE task = $task AND run_id IN (SELECT run_id FROM accuracies)
GROUP BY arm, age_iterations
ORDER BY arm, age_iterations
