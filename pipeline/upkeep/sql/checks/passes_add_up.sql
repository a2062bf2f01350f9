-- One row per pass with an unknown policy, parent, reference or snapshot; or whose numbers of draws and updates are not
-- the recorded ones; or with a draw that has no update row, or the reverse. No order.
WITH matched AS (
    SELECT
        coalesce(d.pass_id, u.pass_id) AS pass_id,
        count(d.pass_id) AS n_draws, count(DISTINCT d.update) AS n_updates,
        count(*) FILTER (d.pass_id IS NULL OR u.pass_id IS NULL) AS n_single
    FROM draws d
    FULL JOIN updates u ON u.pass_id = d.pass_id AND u.update = d.update AND u.slot = d.slot
    GROUP BY ALL
)
SELECT
    p.pass_id AS row,
    concat_ws(', ',
        CASE WHEN m.policy_id IS NULL THEN 'unknown policy ' || p.policy_id END,
        CASE WHEN q.policy_id IS NULL THEN 'unknown parent ' || p.parent_id END,
        CASE WHEN p.reference_id IS NOT NULL AND f.policy_id IS NULL THEN 'unknown reference ' || p.reference_id END,
        CASE WHEN s.snapshot_id IS NULL THEN 'unknown snapshot ' || p.snapshot_id END,
        CASE WHEN p.n_draws IS DISTINCT FROM x.n_draws OR p.n_updates IS DISTINCT FROM x.n_updates
            THEN 'says ' || p.n_updates || ' updates of ' || p.n_draws || ' draws' END,
        CASE WHEN x.n_single > 0 THEN x.n_single || ' draws without an update row, or the other way' END
    ) AS problem
FROM passes p
LEFT JOIN matched x USING (pass_id)
LEFT JOIN policies m ON m.policy_id = p.policy_id
LEFT JOIN policies q ON q.policy_id = p.parent_id
LEFT JOIN policies f ON f.policy_id = p.reference_id
LEFT JOIN snapshots s ON s.snapshot_id = p.snapshot_id
WHERE problem <> ''
