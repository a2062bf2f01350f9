-- Inputs: the table numbered (pass_id, step). One row per step, source and rule (null: not recorded) of its passes'
-- draws. Ordered by step, most draws first.
SELECT s.step, d.source, d.rule, count(*) AS n_draws
FROM draws d
JOIN numbered s USING (pass_id)
GROUP BY s.step, d.source, d.rule
ORDER BY s.step, n_draws DESC, d.source, d.rule
