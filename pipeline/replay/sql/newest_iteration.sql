-- Inputs: runs and policies (lists; empty: every one). One row: the newest iteration of their rollouts, null: there are none.
SELECT max(iteration) AS iteration
FROM trajectories
WHERE (len($runs) = 0 OR list_contains($runs, run_id)) AND (len($policies) = 0 OR list_contains($policies, policy_id))
