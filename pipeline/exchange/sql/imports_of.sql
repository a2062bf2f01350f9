-- Inputs: source. One row per import that brought questions of this source: its file and that file's digest. Ordered
-- by import.
SELECT file, file_digest
FROM imports
WHERE kind = 'prompts' AND json_extract_string(how, '$.source') = $source
ORDER BY import_id
