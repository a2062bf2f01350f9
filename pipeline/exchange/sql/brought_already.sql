-- Inputs: file_digest. At most one row: a finished import of this state of an archive.
SELECT import_id, n_added, n_known
FROM imports
WHERE kind = 'archive' AND file_digest = $file_digest
ORDER BY created_at
LIMIT 1
