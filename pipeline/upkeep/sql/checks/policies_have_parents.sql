-- One row per policy whose parent, run or pass the archive does not know. No order.
SELECT c.policy_id AS row,
    concat_ws(', ',
        CASE WHEN c.parent_id IS NOT NULL AND p.policy_id IS NULL THEN 'unknown parent ' || c.parent_id END,
        CASE WHEN c.run_id IS NOT NULL AND r.run_id IS NULL THEN 'unknown run ' || c.run_id END,
        CASE WHEN c.pass_id IS NOT NULL AND s.pass_id IS NULL THEN 'unknown pass ' || c.pass_id END
    ) AS problem
FROM policies c
LEFT JOIN policies p ON p.policy_id = c.parent_id
LEFT JOIN runs r ON r.run_id = c.run_id
LEFT JOIN passes s ON s.pass_id = c.pass_id
WHERE problem <> ''
