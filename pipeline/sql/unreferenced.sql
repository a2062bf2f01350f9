-- Inputs: pass_id, reference_id, precision. One row per trajectory the pass draws that the reference has not seen yet in that
-- precision, by id.
SELECT DISTINCT d.trajectory_id
FROM draws d
ANTI JOIN (
    SELECT trajectory_id
    FROM "references"
    WHERE reference_id = $reference_id AND coalesce(precision, 'float32') = $precision
) f USING (trajectory_id)
WHERE d.pass_id = $pass_id
ORDER BY d.trajectory_id
