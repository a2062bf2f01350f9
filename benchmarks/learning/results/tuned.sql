-- The view of which try counts: one row per task and arm that was tuned. Over curves (curves.parquet). No order.
-- It is the one with the most right answers on the tuning seed, all iterations together; of equals the first.
SELECT task, arm, trial
FROM curves
WHERE seed = 0 AND iteration > 0
GROUP BY task, arm, trial
QUALIFY row_number() OVER (PARTITION BY task, arm ORDER BY avg(train_reward) DESC, trial) = 1
