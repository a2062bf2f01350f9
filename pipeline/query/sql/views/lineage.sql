-- lineage: one row per policy and ancestor; a policy is its own ancestor at depth 0. No order.
--   policy_id    the policy
--   depth        how many passes lie between it and the ancestor
--   ancestor_id    the ancestor; all other columns are about it
--   run_id, iteration, pass_id, parent_id    as in policies; null: a base policy
--   reference_id, snapshot_id, objective, n_updates, n_draws    as in passes; null: a base policy, or null in passes
WITH RECURSIVE known AS MATERIALIZED (  -- otherwise DuckDB reads it again for every ancestor
    SELECT policy_id, parent_id, run_id, iteration, pass_id, count(*) OVER () AS n_policies FROM policies
),
line AS (
    SELECT policy_id, 0 AS depth, policy_id AS ancestor_id, parent_id FROM known
    UNION ALL
    SELECT l.policy_id, l.depth + 1, k.policy_id, k.parent_id
    FROM line l
    JOIN known k ON k.policy_id = l.parent_id AND l.depth < k.n_policies  -- imported parents may form a circle
)
SELECT
    l.policy_id, l.depth, l.ancestor_id, k.run_id, k.iteration, k.pass_id, k.parent_id,
    p.reference_id, p.snapshot_id, p.objective, p.n_updates, p.n_draws
FROM line l
JOIN known k ON k.policy_id = l.ancestor_id
LEFT JOIN passes p ON p.pass_id = k.pass_id
