-- Inputs: run_id, verifier (as its recipe names it). One row per generated trajectory of the run whose iteration was
-- scored but that has no verdict of any version of this verifier, with its iteration and gold answer, oldest first.
SELECT t.trajectory_id, t.iteration, p.gold_answer
FROM trajectories t
JOIN prompts p USING (prompt_id)
SEMI JOIN (SELECT iteration FROM snapshots WHERE run_id = $run_id AND stage = 'score') s ON s.iteration = t.iteration
ANTI JOIN (
    SELECT trajectory_id FROM verdicts WHERE verifier_id = $verifier OR split_part(verifier_id, '@', 1) = $verifier
) v ON v.trajectory_id = t.trajectory_id
WHERE t.run_id = $run_id AND t.finish_reason <> 'prompt_too_long'
ORDER BY t.iteration, t.trajectory_id
