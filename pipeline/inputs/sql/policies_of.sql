-- Inputs: run_id. One row per policy that the run made and that has weights, by iteration.
SELECT policy_id, iteration, location
FROM policies
WHERE run_id = $run_id AND iteration IS NOT NULL AND location IS NOT NULL
ORDER BY iteration
