-- Inputs: pass_id, reference_id (null: of each row the policy that generated it), precision, run_id, iteration. One row per
-- trajectory the pass draws whose reference has not seen it yet in that precision, with the reference, by it and by id. Where
-- rows have references of their own the iteration's new rollouts come too, drawn or not: the policy that made them is here now.
WITH wanted AS (
    SELECT trajectory_id FROM draws WHERE pass_id = $pass_id
    UNION
    SELECT trajectory_id
    FROM trajectories
    WHERE $reference_id IS NULL AND run_id = $run_id AND iteration = $iteration AND n_response_tokens > 0
)
SELECT t.trajectory_id, coalesce($reference_id::VARCHAR, t.policy_id) AS reference_id
FROM trajectories t
SEMI JOIN wanted USING (trajectory_id)
ANTI JOIN "references" f
    ON f.trajectory_id = t.trajectory_id
    AND f.reference_id = coalesce($reference_id::VARCHAR, t.policy_id)
    AND f.precision = $precision
ORDER BY reference_id, t.trajectory_id
