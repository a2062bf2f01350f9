-- Inputs: run_id, iteration. One row: whether the archive has any row of the iteration, even of an unfinished stage.
SELECT
    EXISTS (SELECT 1 FROM trajectories WHERE run_id = $run_id AND iteration = $iteration)
    OR EXISTS (SELECT 1 FROM snapshots WHERE run_id = $run_id AND iteration = $iteration) AS begun
