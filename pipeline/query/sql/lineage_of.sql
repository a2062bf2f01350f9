-- Inputs: policy_id. One row per policy: this one and its ancestors, nearest first, each with the pass that made it, the
-- snapshot that this pass drew from (null: there is no pass or snapshot, or it is not in the archive), and the snapshot's
-- labels (null: it has none).
WITH RECURSIVE known AS MATERIALIZED (  -- otherwise DuckDB reads it again for every ancestor
    SELECT
        policy_id, parent_id, run_id, iteration, pass_id, n_parameters, location,
        count(*) OVER () AS n_policies
    FROM policies
),
line AS (
    SELECT policy_id, parent_id, 0 AS depth FROM known WHERE policy_id = $policy_id
    UNION ALL
    SELECT k.policy_id, k.parent_id, l.depth + 1
    FROM line l
    JOIN known k ON k.policy_id = l.parent_id AND l.depth < k.n_policies  -- imported parents may form a circle
),
labelled AS (
    SELECT snapshot_id, string_agg(label, ', ' ORDER BY label) AS labels FROM labels GROUP BY snapshot_id
)
SELECT
    k.policy_id, k.parent_id, k.run_id, k.iteration, k.pass_id, k.n_parameters, k.location,
    p.objective, r.train_beta AS beta, p.n_updates, p.n_draws, p.reference_id,
    p.snapshot_id, s.stage, s.run_id AS stage_run_id, s.iteration AS stage_iteration, b.labels
FROM line l
JOIN known k USING (policy_id)
LEFT JOIN passes p ON p.pass_id = k.pass_id
LEFT JOIN run_settings r ON r.run_id = p.run_id
LEFT JOIN snapshots s ON s.snapshot_id = p.snapshot_id
LEFT JOIN labelled b ON b.snapshot_id = p.snapshot_id
ORDER BY l.depth
