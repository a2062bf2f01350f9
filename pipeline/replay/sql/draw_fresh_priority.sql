-- fresh_priority: a row of the newest window_trajectories weighs (|residual| + epsilon)^alpha * exp(-age / tau), after
-- arXiv 2604.16918. tau is tau_windows times the iterations that the window spans. A row that no pass has used yet has no
-- residual; |target| is used instead, which is the |residual| of Eq. 2 while the policy is the reference.
-- Inputs: the candidates; window_trajectories (null: all), alpha, epsilon, tau_windows.
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
SELECT
    trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations,
    (abs(coalesce(residual, target)) + $epsilon::DOUBLE) ** $alpha::DOUBLE
        * exp(-age_iterations / ($tau_windows::DOUBLE * (max(age_iterations) OVER () + 1))) AS chance
FROM candidates
WHERE $window_trajectories IS NULL OR newest <= $window_trajectories
