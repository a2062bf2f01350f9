-- recency: of the newest window_trajectories, a row weighs gamma^age. Inputs: the candidates; window_trajectories (null: all), gamma.
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, $gamma::DOUBLE ** age_iterations AS chance
FROM candidates
WHERE $window_trajectories IS NULL OR newest <= $window_trajectories
