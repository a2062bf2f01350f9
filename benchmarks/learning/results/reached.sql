-- One row per reported run and accuracy asked for: when it was first there. Over accuracies and wanted (task, threshold).
--   n_generated, n_updates    on the straight line between the two evaluations around it; null: it never was
--   n_made                    rollouts that the run generated in all, so that null is more than that
-- Ordered by task, arm, threshold and seed.
WITH pairs AS (
    SELECT
        *,
        lag(accuracy) OVER by_run AS accuracy_before,
        lag(n_generated) OVER by_run AS generated_before,
        lag(n_updates) OVER by_run AS updates_before
    FROM accuracies
    WHERE accuracy IS NOT NULL
    WINDOW by_run AS (PARTITION BY run_id ORDER BY iteration)
),
crossed AS (
    SELECT
        p.*, w.threshold,
        coalesce(least(1, (p.accuracy - w.threshold) / nullif(p.accuracy - p.accuracy_before, 0)), 0) AS too_far
    FROM pairs p
    JOIN wanted w ON w.task = p.task AND p.accuracy >= w.threshold
    QUALIFY row_number() OVER (PARTITION BY p.run_id, w.threshold ORDER BY p.iteration) = 1
),
made AS (
    SELECT run_id, task, arm, seed, max(n_generated) AS n_made FROM accuracies GROUP BY ALL
)
SELECT
    m.task, m.arm, w.threshold, m.seed,
    c.n_generated - c.too_far * (c.n_generated - coalesce(c.generated_before, c.n_generated)) AS n_generated,
    c.n_updates - c.too_far * (c.n_updates - coalesce(c.updates_before, c.n_updates)) AS n_updates,
    m.n_made
FROM made m
JOIN wanted w USING (task)
LEFT JOIN crossed c ON c.run_id = m.run_id AND c.threshold = w.threshold
ORDER BY m.task, m.arm, w.threshold, m.seed
