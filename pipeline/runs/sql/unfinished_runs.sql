-- Inputs: flow, base_policy_id (null: any), snapshot_id (null: any), n_iterations. One row per such run that has ended
-- fewer iterations than it was started for or than are requested now, newest first.
SELECT r.run_id, r.config
FROM runs r
LEFT JOIN snapshots s ON s.run_id = r.run_id AND s.stage = 'iteration'
WHERE r.flow = $flow AND ($base_policy_id IS NULL OR r.base_policy_id = $base_policy_id)
    AND ($snapshot_id IS NULL OR r.snapshot_id = $snapshot_id)
GROUP BY r.run_id, r.config, r.n_iterations
HAVING coalesce(max(s.iteration), 0) < greatest(r.n_iterations, $n_iterations)
ORDER BY max(s.created_at) DESC NULLS FIRST, r.run_id
