-- Inputs: import_id, n_shown. One row per bad row of the import, the first n_shown, in the order of the files.
SELECT file, line, reason
FROM rejects
WHERE import_id = $import_id
ORDER BY file, line
LIMIT $n_shown
