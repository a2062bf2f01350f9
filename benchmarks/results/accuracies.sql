-- The view the others stand on: curves.parquet of reported runs with what counts as their accuracy. Over curves and tasks
-- (task, iterations). One row per run and iteration, no order.
--   accuracy    share of right answers, sampled at temperature 1, among the new rollouts of three iterations. Questions hardly
--               ever come twice (but for single prompts), so these are answers to questions the policy was not trained on
SELECT c.*, c.number AS seed, t.iterations, avg(c.train_reward) OVER last_three AS accuracy
FROM curves c
JOIN tasks t USING (task)
WHERE NOT c.is_tuning AND c.iteration > 0
WINDOW last_three AS (PARTITION BY c.run_id ORDER BY c.iteration ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)
