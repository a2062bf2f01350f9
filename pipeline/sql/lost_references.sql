-- No inputs. One row per rollout that a finished pass drew and its reference, without the reference's two sums, by those.
SELECT DISTINCT p.reference_id, d.trajectory_id
FROM passes p
JOIN draws d USING (pass_id)
ANTI JOIN "references" f ON f.trajectory_id = d.trajectory_id AND f.reference_id = p.reference_id
ORDER BY p.reference_id, d.trajectory_id
