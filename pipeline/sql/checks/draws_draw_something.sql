-- One row per draw of an unknown trajectory, or with a reward that no verdict of it has. No order.
SELECT
    d.pass_id || '/' || d.update || '/' || d.slot AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'a draw of unknown trajectory ' || d.trajectory_id
        ELSE 'a reward of ' || d.reward || ' that no verdict of ' || d.trajectory_id || ' has' END AS problem
FROM draws d
LEFT JOIN trajectories t USING (trajectory_id)
WHERE t.trajectory_id IS NULL
    OR NOT EXISTS (SELECT 1 FROM verdicts v WHERE v.trajectory_id = d.trajectory_id AND v.reward = d.reward)
