-- One row per draw of an unknown trajectory, or with a reward that none of its verdicts gives. A verdict gives the reward
-- that the run sets for it, or else the verdict's own, minus at most the run's length penalty. No order.
WITH judged AS (
    SELECT
        d.pass_id, d.update, d.slot, d.reward, r.reward_length_penalty AS length_penalty,
        coalesce(
            CASE v.verdict
                WHEN 'correct' THEN r.reward_correct
                WHEN 'wrong' THEN r.reward_wrong
                WHEN 'no_answer' THEN r.reward_no_answer
                WHEN 'bad_gold' THEN r.reward_bad_gold
                WHEN 'timeout' THEN r.reward_timeout
                WHEN 'crashed' THEN r.reward_crashed
            END,
            v.reward
        ) AS worth
    FROM draws d
    JOIN verdicts v USING (trajectory_id)
    LEFT JOIN pass_names n ON n.pass_id = d.pass_id
    LEFT JOIN run_settings r ON r.run_id = n.run_id
),
accounted AS (
    SELECT pass_id, update, slot FROM judged WHERE reward BETWEEN worth - coalesce(length_penalty, 0) AND worth
)
SELECT
    d.pass_id || '/' || d.update || '/' || d.slot AS row,
    CASE WHEN t.trajectory_id IS NULL THEN 'a draw of unknown trajectory ' || d.trajectory_id
        ELSE 'a reward of ' || d.reward || ' that no verdict of ' || d.trajectory_id || ' has' END AS problem
FROM draws d
LEFT JOIN trajectories t USING (trajectory_id)
ANTI JOIN accounted a ON t.trajectory_id IS NOT NULL AND a.pass_id = d.pass_id AND a.update = d.update AND a.slot = d.slot
