-- Inputs: run_id, iteration. At most one row: the snapshot that the iteration's pass draws from.
SELECT CASE r.flow WHEN 'retrain' THEN r.snapshot_id ELSE s.snapshot_id END AS snapshot_id
FROM runs r
LEFT JOIN snapshots s ON s.run_id = r.run_id AND s.iteration = $iteration AND s.stage = 'score'
WHERE r.run_id = $run_id
