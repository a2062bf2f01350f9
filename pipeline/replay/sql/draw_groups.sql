-- groups: whole groups of the newest window_trajectories, each group alike, for objectives that normalise within one. A group
-- of which the window has but a part is left out. Inputs: the candidates; window_trajectories (null: all).
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
SELECT trajectory_id, group_id AS unit, count(*) OVER (PARTITION BY group_id) AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM candidates
QUALIFY $window_trajectories IS NULL OR max(newest) OVER (PARTITION BY group_id) <= $window_trajectories
