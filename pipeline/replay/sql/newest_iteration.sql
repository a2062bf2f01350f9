-- Inputs: runs and policies (lists; empty: all). One row: the newest iteration of their rollouts (null: they have none).
SELECT max(iteration) AS iteration
FROM trajectories
WHERE (len($runs) = 0 OR list_contains($runs, run_id)) AND (len($policies) = 0 OR list_contains($policies, policy_id))
