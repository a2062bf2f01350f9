-- Inputs: run_id, iteration. One row: the figures in the iteration's line.
SELECT
    train_reward, heldout_accuracy, n_fresh, n_replayed, mean_age_iterations, loss,
    seconds_generate, seconds_score, seconds_draw, seconds_reference, seconds_train, seconds_evaluate, seconds_overhead
FROM progress
WHERE run_id = $run_id AND iteration = $iteration
