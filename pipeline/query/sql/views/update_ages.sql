-- update_ages: one row per pass, update and age: how many draws of the update have that age. No order.
--   pass_id, update, age_iterations    as in draws
--   run_id, iteration    as in passes; of a pass that is not trained yet, taken from its name
--   n_draws              draws of that age
--   share                which part of the update's draws they are
WITH counted AS (
    SELECT pass_id, update, age_iterations, count(*) AS n_draws FROM draws GROUP BY pass_id, update, age_iterations
)
SELECT
    c.pass_id,
    coalesce(p.run_id, regexp_replace(c.pass_id, '-\d+$', '')) AS run_id,
    coalesce(p.iteration, try_cast(regexp_extract(c.pass_id, '\d+$') AS BIGINT)) AS iteration,
    c.update, c.age_iterations, c.n_draws,
    c.n_draws / sum(c.n_draws) OVER (PARTITION BY c.pass_id, c.update) AS share
FROM counted c
LEFT JOIN passes p USING (pass_id)
