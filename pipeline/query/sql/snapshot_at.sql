-- Inputs: time. At most one row: the last snapshot made at or before that time.
SELECT snapshot_id, versions, n_rows
FROM snapshots
WHERE created_at <= $time
ORDER BY created_at DESC, snapshot_id
LIMIT 1
