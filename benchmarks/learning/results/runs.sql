-- One row per reported run: how it ended, at the task's number of generated rollouts. Over accuracies.
--   final_accuracy    share of right samples in its last three iterations
--   area              mean of its accuracy
--   greedy            accuracy of greedy answers to held-out questions at the end; null: of single prompts, which have
--                     none
--   n_generated, n_updates, seconds_generate, seconds_train    up to there
-- Ordered by task, arm and seed.
SELECT
    task, arm, seed, any_value(learning_rate) AS learning_rate, any_value(beta) AS beta,
    arg_max(accuracy, iteration) AS final_accuracy, avg(accuracy) AS area,
    arg_max(heldout_accuracy, iteration) AS greedy,
    max(n_generated) AS n_generated, max(n_updates) AS n_updates,
    sum(seconds_generate) AS seconds_generate, sum(seconds_train) AS seconds_train
FROM accuracies
WHERE iteration <= iterations
GROUP BY task, arm, seed
ORDER BY task, arm, seed
