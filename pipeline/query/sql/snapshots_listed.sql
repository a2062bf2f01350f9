-- Inputs: n (null: all). One row for each of the last n snapshots: its time, stage and run, its labels, and how many rows
-- each table gained since the snapshot before it. Ordered by time, oldest first.
WITH counted AS (
    SELECT
        snapshot_id, created_at, stage, run_id, iteration, versions IS NOT NULL AS kept, n_rows,
        lag(n_rows) OVER (ORDER BY created_at, snapshot_id) AS before,
        row_number() OVER (ORDER BY created_at DESC, snapshot_id DESC) AS newest
    FROM snapshots
),
labelled AS (
    SELECT snapshot_id, string_agg(label, ', ' ORDER BY label) AS labels FROM labels GROUP BY snapshot_id
)
SELECT
    c.snapshot_id, strftime(c.created_at AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S') AS created_at_utc,
    c.stage, c.run_id, c.iteration, l.labels,
    CASE
        WHEN NOT c.kept THEN 'came with an import'
        ELSE array_to_string(list_transform(
            list_filter(map_entries(c.n_rows), lambda e: e.value > coalesce(c.before[e.key], 0)),
            lambda e: e.key || ' +' || (e.value - coalesce(c.before[e.key], 0))
        ), ', ')
    END AS rows_added
FROM counted c
LEFT JOIN labelled l USING (snapshot_id)
WHERE $n IS NULL OR c.newest <= $n
ORDER BY c.created_at, c.snapshot_id
