-- Inputs: run_id. At most one row: what the run was begun with.
SELECT flow, config, base_policy_id, snapshot_id
FROM runs
WHERE run_id = $run_id
