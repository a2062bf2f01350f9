-- Inputs: pass_id, reference_id. One row per trajectory the pass draws that the reference has not seen yet, by id.
SELECT r.trajectory_id, r.prompt_token_ids, r.response_token_ids
FROM responses r
SEMI JOIN (SELECT trajectory_id FROM draws WHERE pass_id = $pass_id) d USING (trajectory_id)
ANTI JOIN (SELECT trajectory_id FROM "references" WHERE reference_id = $reference_id) f USING (trajectory_id)
ORDER BY r.trajectory_id
