-- Inputs: policy_id. At most one row: the settings of the run that made the policy, as JSON.
SELECT r.config
FROM policies p
JOIN runs r ON r.run_id = p.run_id
WHERE p.policy_id = $policy_id
