-- Inputs: the candidates, the table picks. One row per draw, with columns of its candidate, ordered by update and slot.
SELECT
    p.update, p.slot, p.trajectory_id, p.source, c.age_iterations, p.weight, c.reward, c.baseline, p.rule, c.deviation
FROM picks p
JOIN candidates c USING (trajectory_id)
ORDER BY p.update, p.slot
