-- Inputs: import_id. At most one row: the import, if it is finished.
SELECT n_added, n_known, n_rejected
FROM imports
WHERE import_id = $import_id
