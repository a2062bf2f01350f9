-- One row per evaluation answer of an unknown policy, or to a prompt that is unknown or not held out. No order.
SELECT
    e.policy_id || ' on ' || e.prompt_id AS row,
    CASE WHEN m.policy_id IS NULL THEN 'unknown policy' WHEN p.prompt_id IS NULL THEN 'unknown prompt'
        ELSE 'a training prompt' END AS problem
FROM evaluations e
LEFT JOIN policies m USING (policy_id)
LEFT JOIN prompts p ON p.prompt_id = e.prompt_id
WHERE m.policy_id IS NULL OR p.prompt_id IS NULL OR p.split <> 'heldout'
