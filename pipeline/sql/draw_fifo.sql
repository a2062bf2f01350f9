-- Inputs: the candidates; pass_id, first_update, end_update, n_draws, window_trajectories. One row per draw.
-- Each update takes n_draws of the newest window_trajectories, uniformly and without repetition. Chance is a keyed
-- digest: the same rows for any thread count and file layout. Ordered by update and slot.
SELECT
    u.update,
    row_number() OVER (
        PARTITION BY u.update ORDER BY md5(concat_ws('/', $pass_id, u.update, c.trajectory_id))
    ) - 1 AS slot,
    c.trajectory_id, 'replay' AS source, c.age_iterations, 1::DOUBLE AS weight, c.reward, c.baseline
FROM candidates c, range($first_update, $end_update) AS u (update)
WHERE c.newest <= $window_trajectories
QUALIFY slot < $n_draws
ORDER BY u.update, slot
