-- Inputs: run_id, iteration. One row per trajectory of the iteration, with the seconds that judging them all took (null: it was
-- not done in one go). No order.
SELECT t.trajectory_id, s.seconds
FROM trajectories t
LEFT JOIN snapshots s ON s.run_id = t.run_id AND s.iteration = t.iteration AND s.stage = 'score'
WHERE t.run_id = $run_id AND t.iteration = $iteration
