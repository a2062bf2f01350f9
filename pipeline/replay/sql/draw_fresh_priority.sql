-- fresh_priority: of the newest window_trajectories, a row weighs (|residual| + epsilon)^alpha * exp(-age / tau), after
-- arXiv 2604.16918. tau is tau_windows times the iterations that the window spans. A row no pass has used yet has no
-- residual: |target| stands in for it, which is what Eq. 2 comes to while the policy is the reference.
-- Inputs: the candidates; window_trajectories (null: all), alpha, epsilon, tau_windows.
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
SELECT
    trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations,
    (abs(coalesce(residual, target)) + $epsilon::DOUBLE) ** $alpha::DOUBLE
        * exp(-age_iterations / ($tau_windows::DOUBLE * (max(age_iterations) OVER () + 1))) AS chance
FROM candidates
WHERE $window_trajectories IS NULL OR newest <= $window_trajectories
