-- One row per reference row of an unknown trajectory or an unknown policy, or with a value that is not finite. No
-- order.
SELECT
    f.trajectory_id || ' under ' || f.reference_id AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'unknown trajectory' WHEN p.policy_id IS NULL THEN 'unknown policy'
        ELSE 'not a finite number' END AS problem
FROM "references" f
LEFT JOIN trajectories t USING (trajectory_id)
LEFT JOIN policies p ON p.policy_id = f.reference_id
WHERE t.trajectory_id IS NULL OR p.policy_id IS NULL OR NOT isfinite(f.ref_logprob_sum) OR NOT isfinite(f.ref_value)
