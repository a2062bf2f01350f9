-- Inputs: run_id. At most one row: the settings, base policy and state that the run began with.
SELECT flow, config, base_policy_id, snapshot_id
FROM runs
WHERE run_id = $run_id
