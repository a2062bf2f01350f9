-- Inputs: asked (trajectory_id); verifier_id. One row per asked trajectory that is in the archive, and whether this
-- verifier judged it. No order.
SELECT t.trajectory_id, v.trajectory_id IS NOT NULL AS judged
FROM trajectories t
SEMI JOIN asked USING (trajectory_id)
LEFT JOIN (SELECT trajectory_id FROM verdicts WHERE verifier_id = $verifier_id) v USING (trajectory_id)
