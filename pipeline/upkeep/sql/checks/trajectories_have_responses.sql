-- One row per trajectory without a response, and per response without a trajectory. No order.
SELECT
    coalesce(t.trajectory_id, r.trajectory_id) AS row,
    CASE WHEN r.trajectory_id IS NULL THEN 'no response' ELSE 'a response without a trajectory' END AS problem
FROM trajectories t
FULL JOIN (SELECT trajectory_id FROM responses) r ON r.trajectory_id = t.trajectory_id
WHERE r.trajectory_id IS NULL OR t.trajectory_id IS NULL
