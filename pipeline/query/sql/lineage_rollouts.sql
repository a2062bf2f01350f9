-- Inputs: the table numbered (pass_id, step). One row per step and run whose rollouts the step's passes drew: the number
-- of different rollouts, the number of their policies, and their first and last iteration. Null run_id: the rollouts are
-- not in the archive. Ordered by step, most rollouts first.
SELECT
    s.step, t.run_id,
    count(DISTINCT d.trajectory_id) AS n_rollouts,
    count(DISTINCT t.policy_id) AS n_policies,
    min(t.iteration) AS first_iteration,
    max(t.iteration) AS last_iteration
FROM draws d
JOIN numbered s USING (pass_id)
LEFT JOIN trajectories t ON t.trajectory_id = d.trajectory_id
GROUP BY s.step, t.run_id
ORDER BY s.step, n_rollouts DESC, t.run_id
