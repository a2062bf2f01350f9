-- One row per trajectory whose prompt, policy, run or import the archive does not know. No order.
SELECT t.trajectory_id AS row,
    concat_ws(', ',
        CASE WHEN p.prompt_id IS NULL THEN 'unknown prompt ' || t.prompt_id END,
        CASE WHEN m.policy_id IS NULL THEN 'unknown policy ' || t.policy_id END,
        CASE WHEN t.import_id IS NULL AND r.run_id IS NULL THEN 'unknown run ' || t.run_id END,
        CASE WHEN t.import_id IS NOT NULL AND i.import_id IS NULL THEN 'unfinished import ' || t.import_id END
    ) AS problem
FROM trajectories t
LEFT JOIN prompts p USING (prompt_id)
LEFT JOIN policies m ON m.policy_id = t.policy_id
LEFT JOIN runs r ON r.run_id = t.run_id
LEFT JOIN imports i ON i.import_id = t.import_id
WHERE p.prompt_id IS NULL OR m.policy_id IS NULL
    OR (CASE WHEN t.import_id IS NULL THEN r.run_id ELSE i.import_id END) IS NULL
