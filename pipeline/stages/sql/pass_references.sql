-- Inputs: pass_id, reference_id (null: each row has its own), precision. One row per trajectory the pass draws, with the
-- prompt it answers, its sampling temperature and the two sums of its reference in that precision. Ordered by id.
SELECT f.trajectory_id, t.prompt_id, t.temperature, f.ref_logprob_sum, f.ref_value
FROM "references" f
SEMI JOIN (SELECT trajectory_id FROM draws WHERE pass_id = $pass_id) d USING (trajectory_id)
JOIN trajectories t USING (trajectory_id)
WHERE f.reference_id = coalesce($reference_id::VARCHAR, t.policy_id) AND f.precision = $precision
ORDER BY f.trajectory_id
