-- fresh: the newest iteration, all rows with the same chance. Inputs: the candidates.
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM candidates
WHERE age_iterations = 0
