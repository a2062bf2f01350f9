-- Inputs: run_id. One row: how many iterations of the run have ended.
SELECT coalesce(max(iteration), 0) AS n_ended
FROM snapshots
WHERE run_id = $run_id AND stage = 'iteration'
