-- Inputs: the candidates; window_trajectories, share (of keep_correct; else 0). One row: whether the candidates fill the
-- window, so that older rollouts could not be in it.
SELECT
    count(*) FILTER (newest <= n_newest) + count(*) FILTER (newest > n_newest AND verdict = 'correct') >= $window_trajectories
        AS is_full
FROM (
    SELECT newest, verdict, $window_trajectories - round($share::DOUBLE * $window_trajectories)::BIGINT AS n_newest
    FROM candidates
)
