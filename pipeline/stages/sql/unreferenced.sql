-- Inputs: pass_id, reference_id (null: for each row the policy that generated it), precision, run_id, iteration. One row
-- per trajectory the pass draws that has no sums of its reference in that precision yet, with the reference. Ordered by
-- reference and id. If each row has its own reference, the iteration's new rollouts are included, drawn or not, because
-- the policy that generated them is still here.
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
