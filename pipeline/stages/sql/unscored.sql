-- Inputs: run_id (null: any run or import), verifier_id. One row per generated trajectory without a verdict of this
-- verifier, with its iteration and gold answer, oldest first.
SELECT t.trajectory_id, t.iteration, p.gold_answer
FROM trajectories t
JOIN prompts p USING (prompt_id)
ANTI JOIN (SELECT trajectory_id FROM verdicts WHERE verifier_id = $verifier_id) v USING (trajectory_id)
WHERE ($run_id IS NULL OR t.run_id = $run_id) AND t.finish_reason <> 'prompt_too_long'
ORDER BY t.iteration, t.trajectory_id
