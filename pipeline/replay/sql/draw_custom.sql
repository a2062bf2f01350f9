-- custom: a row of the newest window_trajectories has the weight that the user's expression gives. The expression is
-- checked and computed in the view weighed before this runs. Inputs: the view weighed.
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, weight AS chance
FROM weighed
