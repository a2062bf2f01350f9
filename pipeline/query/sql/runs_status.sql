-- No inputs. One row per run: how many iterations it has finished, and the held-out accuracy of its newest policy (null:
-- not evaluated). Ordered by run.
SELECT
    r.run_id, r.flow, r.recipe, r.base_policy_id,
    max(p.iteration) AS iterations_trained, any_value(r.n_iterations) AS iterations_asked,
    arg_max(p.policy_id, p.iteration) AS newest_policy,
    arg_max({'value': p.heldout_accuracy}, p.iteration).value AS heldout_accuracy  -- in a struct: arg_max skips nulls
FROM runs r
JOIN progress p USING (run_id)
GROUP BY r.run_id, r.flow, r.recipe, r.base_policy_id
ORDER BY r.run_id
