-- No inputs. One row per snapshot whose state is kept, oldest first: whether it has a label, and how many passes drew
-- from it.
SELECT
    s.snapshot_id, s.versions,
    EXISTS (SELECT 1 FROM labels l WHERE l.snapshot_id = s.snapshot_id) AS labelled,
    (SELECT count(*) FROM passes p WHERE p.snapshot_id = s.snapshot_id) AS n_passes
FROM snapshots s
WHERE s.versions IS NOT NULL
ORDER BY s.created_at, s.snapshot_id
