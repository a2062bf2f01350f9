-- One row per verdict of an unknown trajectory, or whose reward is not what its judgement says. No order.
SELECT
    v.trajectory_id || ' by ' || v.verifier_id AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'a verdict of an unknown trajectory'
        ELSE 'a reward of ' || coalesce(v.reward::VARCHAR, 'null') || ' for ' || v.verdict END AS problem
FROM verdicts v
LEFT JOIN trajectories t USING (trajectory_id)
WHERE t.trajectory_id IS NULL
    OR (v.reward IS NULL) <> (v.verdict IN ('bad_gold', 'timeout', 'crashed'))
