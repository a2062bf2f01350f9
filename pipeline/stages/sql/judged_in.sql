-- Inputs: run_id, iteration. One row per trajectory of the iteration, with the seconds that judging all of them took
-- (null: it was interrupted). No order.
SELECT t.trajectory_id, s.seconds
FROM trajectories t
LEFT JOIN snapshots s ON s.run_id = t.run_id AND s.iteration = t.iteration AND s.stage = 'score'
WHERE t.run_id = $run_id AND t.iteration = $iteration
