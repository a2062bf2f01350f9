-- curves.parquet: one row per run of benchmarks.learning and iteration, 0 being where it began. Over an archive's views.
-- Inputs: pattern, of run names: TASK.ARM.tN.sM, the Nth try of the arm's grid on seed M. On seed 0 tries are chosen.
--   base                      digest of the weights that the run began from
--   n_generated, n_updates    rollouts and optimizer steps up to and with the iteration
--   heldout_accuracy          of greedy answers; null: not evaluated then
--   train_reward              mean over the iteration's own new rollouts, made by the policy of the iteration before
--   residual_rms … entropy    as in the view training; null at iteration 0
-- Ordered by run and iteration.
WITH made AS (
    SELECT run_id, iteration, count(*) AS n FROM trajectories WHERE run_id LIKE $pattern GROUP BY ALL
),
passed AS (
    SELECT run_id, iteration, n_updates FROM passes WHERE run_id LIKE $pattern
)
SELECT
    p.run_id,
    split_part(p.run_id, '.', 1) AS task, split_part(p.run_id, '.', 2) AS arm,
    split_part(p.run_id, '.', 3)[2:]::SMALLINT AS trial, split_part(p.run_id, '.', 4)[2:]::SMALLINT AS seed,
    r.train_learning_rate::FLOAT AS learning_rate, r.train_beta::FLOAT AS beta,
    b.weights_digest AS base,
    p.iteration::SMALLINT AS iteration,
    coalesce(sum(m.n) OVER so_far, 0)::INT AS n_generated,
    coalesce(sum(u.n_updates) OVER so_far, 0)::INT AS n_updates,
    p.heldout_accuracy::FLOAT AS heldout_accuracy, p.train_reward::FLOAT AS train_reward,
    p.mean_age_iterations::FLOAT AS mean_age_iterations,
    t.residual_rms::FLOAT AS residual_rms, t.log_ratio_rms::FLOAT AS log_ratio_rms, t.kl::FLOAT AS kl,
    t.entropy::FLOAT AS entropy,
    (p.seconds_generate + p.seconds_score)::FLOAT AS seconds_generate,
    (p.seconds_draw + p.seconds_reference + p.seconds_train)::FLOAT AS seconds_train
FROM progress p
JOIN run_settings r USING (run_id)
JOIN policies b ON b.policy_id = r.base_policy_id
LEFT JOIN made m ON m.run_id = p.run_id AND m.iteration = p.iteration
LEFT JOIN passed u ON u.run_id = p.run_id AND u.iteration = p.iteration
LEFT JOIN training t ON t.run_id = p.run_id AND t.iteration = p.iteration
WHERE p.run_id LIKE $pattern
WINDOW so_far AS (PARTITION BY p.run_id ORDER BY p.iteration)
ORDER BY p.run_id, p.iteration
