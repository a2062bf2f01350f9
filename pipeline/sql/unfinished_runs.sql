-- Inputs: flow, config, base_policy_id (null: any). One row per run of these that has not ended, newest first.
SELECT r.run_id
FROM runs r
LEFT JOIN snapshots s ON s.run_id = r.run_id AND s.stage = 'iteration'
WHERE r.flow = $flow AND r.config = $config AND ($base_policy_id IS NULL OR r.base_policy_id = $base_policy_id)
GROUP BY r.run_id, r.n_iterations
HAVING coalesce(max(s.iteration), 0) < r.n_iterations
ORDER BY max(s.created_at) DESC NULLS FIRST, r.run_id
