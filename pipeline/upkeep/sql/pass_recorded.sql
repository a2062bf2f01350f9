-- Inputs: pass_id. At most one row: a finished pass, and how its run was begun.
SELECT
    p.pass_id, p.run_id, p.iteration, p.micro_batch_tokens, p.batching, p.config, p.verifier_id, p.snapshot_id,
    r.flow, r.recipe, r.base_policy_id, m.weights_digest
FROM passes p
JOIN runs r USING (run_id)
JOIN policies m ON m.policy_id = p.policy_id
WHERE p.pass_id = $pass_id
