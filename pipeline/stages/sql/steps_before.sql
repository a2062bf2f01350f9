-- Inputs: run_id, iteration. One row: how many optimizer steps the run made before the iteration.
SELECT coalesce(sum(n_updates), 0)::BIGINT AS n_steps
FROM passes
WHERE run_id = $run_id AND iteration < $iteration
