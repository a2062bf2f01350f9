-- keep_correct: the newest (1 - share) of window_trajectories and, of those older, the newest correct ones, as many as fill
-- the window; each row alike. After arXiv 2604.08706. Inputs: the candidates; window_trajectories (null: all), share.
-- One row per rollout that may be drawn: its `unit` (null: itself) is drawn as a whole and has `n_rows`, in proportion to
-- `chance`. No order.
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
