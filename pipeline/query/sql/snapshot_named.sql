-- Inputs: name. At most one row: the snapshot with that id or that label.
SELECT s.snapshot_id, s.versions, s.n_rows
FROM snapshots s
LEFT JOIN labels l ON l.snapshot_id = s.snapshot_id AND l.label = $name
WHERE s.snapshot_id = $name OR l.label IS NOT NULL
LIMIT 1
