-- One row per draw of an unknown trajectory, or with a reward that no verdict of it has: at the worth its run gives to verdicts,
-- less what its run may take for length. No order.
WITH drawn AS (
    SELECT pass_id, update, slot, trajectory_id, reward, regexp_replace(pass_id, '-\d+$', '') AS run_id FROM draws
),
shaping AS (
    SELECT
        run_id, verdict, json_extract(config, '$.reward.' || verdict)::DOUBLE AS worth,
        json_extract(config, '$.reward.length_penalty')::DOUBLE AS length_penalty
    FROM runs
    CROSS JOIN (SELECT DISTINCT verdict FROM verdicts) said
),
accounted AS (
    SELECT d.pass_id, d.update, d.slot
    FROM drawn d
    JOIN verdicts v USING (trajectory_id)
    LEFT JOIN shaping s ON s.run_id = d.run_id AND s.verdict = v.verdict
    WHERE d.reward BETWEEN coalesce(s.worth, v.reward) - coalesce(s.length_penalty, 0) AND coalesce(s.worth, v.reward)
)
SELECT
    d.pass_id || '/' || d.update || '/' || d.slot AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'a draw of unknown trajectory ' || d.trajectory_id
        ELSE 'a reward of ' || d.reward || ' that no verdict of ' || d.trajectory_id || ' has' END AS problem
FROM drawn d
LEFT JOIN trajectories t USING (trajectory_id)
ANTI JOIN accounted a ON t.trajectory_id IS NOT NULL AND a.pass_id = d.pass_id AND a.update = d.update AND a.slot = d.slot
