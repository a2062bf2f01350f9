-- No inputs. One row per run: what it was begun with, by name.
SELECT run_id, flow, recipe, config, base_policy_id
FROM runs
ORDER BY run_id
