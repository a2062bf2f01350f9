-- No inputs. One row per rollout that a finished pass drew, its reference and precision, without the reference's two sums, by
-- those.
WITH trained AS (
    SELECT pass_id, reference_id, coalesce(json_extract_string(config, '$.train.precision'), 'float32') AS precision FROM passes
)
SELECT DISTINCT p.reference_id, p.precision, d.trajectory_id
FROM trained p
JOIN draws d USING (pass_id)
ANTI JOIN "references" f
    ON f.trajectory_id = d.trajectory_id
    AND f.reference_id = p.reference_id
    AND coalesce(f.precision, 'float32') = p.precision
ORDER BY p.reference_id, p.precision, d.trajectory_id
