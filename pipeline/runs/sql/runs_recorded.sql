-- No inputs. One row per run: the settings and base policy it began with. Ordered by name.
SELECT run_id, flow, recipe, config, base_policy_id
FROM runs
ORDER BY run_id
