-- Inputs: import_id; rollouts; prompts of the other archive; here_prompts. One row per prompt that these rollouts answer
-- and that this archive lacks. A source has a problem in one split only: if its source has the problem here, the prompt
-- gets that split; else, if another source here holds the problem out, it is held out. Ordered by prompt.
WITH sources AS (
    SELECT source, problem, min(split) AS split FROM here_prompts GROUP BY source, problem
),
heldout AS (
    SELECT DISTINCT problem, split FROM here_prompts WHERE split = 'heldout'
)
SELECT p.* REPLACE (coalesce(s.split, h.split, p.split) AS split, $import_id AS import_id, NULL AS line)
FROM prompts p
SEMI JOIN rollouts r ON r.prompt_id = p.prompt_id
ANTI JOIN here_prompts i ON i.prompt_id = p.prompt_id
LEFT JOIN sources s ON s.source = p.source AND s.problem = p.problem
LEFT JOIN heldout h ON h.problem = p.problem
ORDER BY p.prompt_id
