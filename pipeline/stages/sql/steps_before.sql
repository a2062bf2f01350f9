-- Inputs: run_id, iteration. One row: the optimizer steps that the run made before an iteration.
SELECT coalesce(sum(n_updates), 0)::BIGINT AS n_steps
FROM passes
WHERE run_id = $run_id AND iteration < $iteration
