-- Inputs: file_digest. At most one row: an import that brought this state of an archive, if it has ended.
SELECT import_id, n_added, n_known
FROM imports
WHERE kind = 'archive' AND file_digest = $file_digest
ORDER BY created_at
LIMIT 1
