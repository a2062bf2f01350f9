-- ages.parquet: what rows of each age were when they were trained on. Over an archive's tables. Inputs: pattern, of run
-- names.
-- One row per run and age; residual in nats, as it was just before the step. Ordered by run and age.
SELECT
    p.run_id, split_part(p.run_id, '.', 1) AS task, split_part(p.run_id, '.', 2) AS arm,
    d.age_iterations::SMALLINT AS age_iterations, count(*)::INT AS n_draws,
    sqrt(avg(u.residual ** 2))::FLOAT AS residual_rms, sqrt(avg(u.log_ratio ** 2))::FLOAT AS log_ratio_rms,
    avg(d.reward)::FLOAT AS reward
FROM draws d
JOIN updates u USING (pass_id, update, slot)
JOIN passes p USING (pass_id)
WHERE p.run_id LIKE $pattern
GROUP BY ALL
ORDER BY p.run_id, age_iterations
