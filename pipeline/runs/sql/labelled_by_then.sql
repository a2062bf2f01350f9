-- Inputs: run_id. One row per label, oldest first: the version of the table policies in its snapshot (null: the snapshot
-- came with an import), and the last iteration of the run that had ended its train stage at that time (null: there is
-- none).
SELECT
    l.label, s.versions['policies'] AS version,
    (
        SELECT max(t.iteration) FROM snapshots t
        WHERE t.run_id = $run_id AND t.stage = 'train' AND t.created_at <= s.created_at
    ) AS iteration
FROM labels l
JOIN snapshots s USING (snapshot_id)
ORDER BY l.created_at, l.label
