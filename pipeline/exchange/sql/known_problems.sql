-- Inputs: asked (problem). One row per prompt of the archive with one of these problems. Ordered by prompt.
SELECT p.prompt_id, p.source, p.split, p.problem, p.gold_answer, p.import_id
FROM prompts p
SEMI JOIN asked USING (problem)
ORDER BY p.prompt_id
