-- One row per label of a snapshot that the archive does not know. No order.
SELECT l.label AS row, 'names unknown snapshot ' || l.snapshot_id AS problem
FROM labels l
LEFT JOIN snapshots s USING (snapshot_id)
WHERE s.snapshot_id IS NULL
