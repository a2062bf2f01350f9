-- No inputs. At most one row: the snapshot made last.
SELECT snapshot_id
FROM snapshots
ORDER BY created_at DESC, snapshot_id
LIMIT 1
