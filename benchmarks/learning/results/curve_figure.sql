-- curves-TASK.png: one row per arm and point of its curve: median over seeds, the lowest and the highest. Over
-- accuracies.
-- Inputs: task, arms. Ordered by arm and point.
SELECT
    arm, n_generated, count(*) AS n_seeds, median(accuracy) AS accuracy, min(accuracy) AS lowest, max(accuracy) AS highest
FROM accuracies
WHERE task = $task AND list_contains($arms, arm) AND iteration <= iterations AND accuracy IS NOT NULL
GROUP BY arm, n_generated
ORDER BY arm, n_generated
