-- No inputs. One row per rollout that a finished pass drew, its reference and precision, without the reference's two sums, by
-- those.
WITH trained AS (
    SELECT pass_id, reference_id, json_extract_string(config, '$.train.precision') AS precision FROM passes
),
used AS (
    SELECT DISTINCT coalesce(p.reference_id, t.policy_id) AS reference_id, p.precision, d.trajectory_id
    FROM trained p
    JOIN draws d USING (pass_id)
    JOIN trajectories t USING (trajectory_id)
)
SELECT u.reference_id, u.precision, u.trajectory_id
FROM used u
ANTI JOIN "references" f
    ON f.trajectory_id = u.trajectory_id
    AND f.reference_id = u.reference_id
    AND f.precision = u.precision
ORDER BY u.reference_id, u.precision, u.trajectory_id
