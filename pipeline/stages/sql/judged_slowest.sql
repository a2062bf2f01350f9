-- Inputs: wanted (trajectory_id); verifier_id. One row for each of the ten rollouts that this verifier took longest to
-- judge, slowest first.
SELECT v.seconds, v.verdict, v.trajectory_id, t.policy_id, p.gold_answer, left(v.extracted_answer, 60) AS extracted_answer
FROM verdicts v
SEMI JOIN wanted w USING (trajectory_id)
JOIN trajectories t ON t.trajectory_id = v.trajectory_id
JOIN prompts p ON p.prompt_id = t.prompt_id
WHERE v.verifier_id = $verifier_id AND v.seconds IS NOT NULL
ORDER BY v.seconds DESC, v.trajectory_id
LIMIT 10
