-- fifo: the newest window_trajectories, all rows with the same chance, as in the paper.
-- Inputs: the candidates; window_trajectories (null: all).
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM candidates
WHERE $window_trajectories IS NULL OR newest <= $window_trajectories
