-- custom: of the newest window_trajectories, a row weighs what the user's expression says, which is checked and in the table
-- weighed before this runs. Inputs: the view weighed.
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, weight AS chance
FROM weighed
