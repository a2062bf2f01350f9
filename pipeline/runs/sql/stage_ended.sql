-- Inputs: run_id, iteration, stage. One row: whether the stage has ended.
SELECT count(*) > 0 AS ended
FROM snapshots
WHERE run_id = $run_id AND iteration = $iteration AND stage = $stage
