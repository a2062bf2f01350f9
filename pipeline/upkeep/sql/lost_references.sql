-- No inputs. One row per rollout that a finished pass drew and whose row in references is lost, with its reference and
-- precision. Ordered by reference, precision and rollout.
WITH trained AS (
    SELECT p.pass_id, p.reference_id, coalesce(r.train_precision, 'float32') AS precision
    FROM passes p
    LEFT JOIN run_settings r USING (run_id)
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
