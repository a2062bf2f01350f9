-- keep_correct: the newest (1 - share) of window_trajectories, and the newest correct ones among older rollouts until the
-- window is full; all rows with the same chance. After arXiv 2604.08706.
-- Inputs: the candidates; window_trajectories (null: all), share.
-- One row per rollout that may be drawn. Its `unit` (null: the rollout alone) has `n_rows` rows and is drawn as a whole,
-- in proportion to `chance`. No order.
WITH split AS (
    SELECT
        trajectory_id, age_iterations, newest, verdict,
        $window_trajectories - round($share::DOUBLE * $window_trajectories)::BIGINT AS n_newest
    FROM candidates
)
SELECT trajectory_id, NULL::VARCHAR AS unit, 1 AS n_rows, age_iterations, 1::DOUBLE AS chance
FROM split
WHERE $window_trajectories IS NULL OR newest <= n_newest OR verdict = 'correct'
QUALIFY $window_trajectories IS NULL
    OR newest <= n_newest
    OR row_number() OVER (PARTITION BY newest <= n_newest ORDER BY newest) <= $window_trajectories - n_newest
