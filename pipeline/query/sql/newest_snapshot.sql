-- No inputs. At most one row: the newest snapshot.
SELECT snapshot_id
FROM snapshots
ORDER BY created_at DESC, snapshot_id
LIMIT 1
