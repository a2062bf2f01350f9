-- groups: whole groups of the newest window_trajectories, all groups with the same chance, for objectives that normalise
-- within a group. A group that is only partly in the window is left out. Inputs: the candidates; window_trajectories
-- (null: all).
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
SELECT trajectory_id, group_id AS unit, count(*) OVER (PARTITION BY group_id) AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM candidates
QUALIFY $window_trajectories IS NULL OR max(newest) OVER (PARTITION BY group_id) <= $window_trajectories
