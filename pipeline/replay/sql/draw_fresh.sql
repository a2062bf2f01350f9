-- fresh: the newest iteration, each row alike. Inputs: the candidates.
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM candidates
WHERE age_iterations = 0
