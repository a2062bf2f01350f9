-- Inputs: pass_id, reference_id. One row per trajectory the pass draws, with its reference's two sums, by id.
SELECT f.trajectory_id, f.ref_logprob_sum, f.ref_value
FROM "references" f
SEMI JOIN (SELECT trajectory_id FROM draws WHERE pass_id = $pass_id) d USING (trajectory_id)
WHERE f.reference_id = $reference_id
ORDER BY f.trajectory_id
