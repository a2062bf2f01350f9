-- Inputs: wanted (trajectory_id); verifier_id. One row per gold answer of these rollouts that this verifier cannot read,
-- with the file and line it came from (null: it was made here) and how many rollouts could not be judged because of it.
-- Ordered by file and line.
SELECT i.file, p.line, p.gold_answer, p.source, p.prompt_id, count(*) AS n_rollouts
FROM verdicts v
SEMI JOIN wanted w USING (trajectory_id)
JOIN trajectories t ON t.trajectory_id = v.trajectory_id
JOIN prompts p ON p.prompt_id = t.prompt_id
LEFT JOIN imports i ON i.import_id = p.import_id
WHERE v.verifier_id = $verifier_id AND v.verdict = 'bad_gold'
GROUP BY ALL
ORDER BY i.file, p.line, p.prompt_id
