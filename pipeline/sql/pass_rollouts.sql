-- Inputs: pass_id, reference_id. One row per trajectory the pass draws: its tokens and its reference's two sums, by id.
SELECT r.trajectory_id, r.prompt_token_ids, r.response_token_ids, f.ref_logprob_sum, f.ref_value
FROM responses r
JOIN "references" f ON f.trajectory_id = r.trajectory_id AND f.reference_id = $reference_id
SEMI JOIN (SELECT trajectory_id FROM draws WHERE pass_id = $pass_id) d ON d.trajectory_id = r.trajectory_id
ORDER BY r.trajectory_id
