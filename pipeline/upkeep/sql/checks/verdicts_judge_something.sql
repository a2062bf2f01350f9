-- One row per verdict of an unknown trajectory; or whose iteration is not its trajectory's (queries skip files by it); or
-- that has a reward and should have none, or the reverse. No order.
SELECT
    v.trajectory_id || ' by ' || v.verifier_id AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'a verdict of an unknown trajectory'
        WHEN v.iteration <> t.iteration THEN 'says iteration ' || v.iteration || ' of a rollout of ' || t.iteration
        ELSE 'a reward of ' || coalesce(v.reward::VARCHAR, 'null') || ' for ' || v.verdict END AS problem
FROM verdicts v
LEFT JOIN trajectories t USING (trajectory_id)
WHERE t.trajectory_id IS NULL
    OR v.iteration <> t.iteration
    OR (v.reward IS NULL) <> (v.verdict IN ('bad_gold', 'timeout', 'crashed'))
