-- The view of what is reported: curves.parquet of the seeds after the first and the tries that count, and their accuracy.
-- Over curves, tuned and tasks (task, tuned_on, iterations). One row per run and iteration, no order.
--   accuracy    share of right answers, sampled at temperature 1, among the new rollouts of three iterations. Questions
--               hardly ever come twice (but for single prompts), so these are answers to questions the policy was not
--               trained on
SELECT c.*, t.iterations, avg(c.train_reward) OVER last_three AS accuracy
FROM curves c
JOIN tasks t USING (task)
JOIN tuned b ON b.task = t.tuned_on AND b.arm = c.arm AND b.trial = c.trial
WHERE c.seed > 0 AND c.iteration > 0
WINDOW last_three AS (PARTITION BY c.run_id ORDER BY c.iteration ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)
