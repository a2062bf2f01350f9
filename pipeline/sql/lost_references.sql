-- No inputs. One row per rollout that a finished pass drew and its reference, without the reference's two sums, by those.
SELECT DISTINCT p.reference_id, r.trajectory_id, r.prompt_token_ids, r.response_token_ids
FROM passes p
JOIN draws d USING (pass_id)
JOIN responses r USING (trajectory_id)
ANTI JOIN "references" f ON f.trajectory_id = d.trajectory_id AND f.reference_id = p.reference_id
ORDER BY p.reference_id, r.trajectory_id
