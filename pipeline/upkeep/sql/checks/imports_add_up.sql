-- One row per import whose number of rejects is not the recorded one, and per prompt of an import that is not recorded.
-- No order.
WITH counted AS (
    SELECT import_id, count(*) AS n FROM rejects GROUP BY import_id
),
known AS (
    SELECT import_id FROM imports
)
SELECT i.import_id AS row, 'says ' || i.n_rejected || ' rejects and has ' || coalesce(c.n, 0) AS problem
FROM imports i
LEFT JOIN counted c USING (import_id)
WHERE i.n_rejected <> coalesce(c.n, 0)
UNION ALL
SELECT p.prompt_id, 'a prompt of unfinished import ' || p.import_id
FROM prompts p
LEFT JOIN known k USING (import_id)
WHERE p.import_id IS NOT NULL AND k.import_id IS NULL
