-- update_ages: one row per pass, update and age of its draws: the histogram of ages. A pass appears as soon as its draws
-- are made, before it is trained. No order.
--   pass_id, update, age_iterations    as in draws
--   run_id, iteration    of the pass
--   n_draws, share       draws of that age, and their share of the draws of the update
WITH counted AS (
    SELECT pass_id, update, age_iterations, count(*) AS n_draws FROM draws GROUP BY pass_id, update, age_iterations
)
SELECT
    c.pass_id, p.run_id, p.iteration, c.update, c.age_iterations, c.n_draws,
    c.n_draws / sum(c.n_draws) OVER (PARTITION BY c.pass_id, c.update) AS share
FROM counted c
LEFT JOIN pass_names p USING (pass_id)
