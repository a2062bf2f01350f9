-- rollouts: one row per trajectory with its prompt, its text and one verdict: the join that most queries need. If it has
-- several verdicts, the view takes that of the verifier named in the recipe of its run, else a label that came with an
-- imported file, else that of the verifier whose name is last in the alphabet; and the latest version of that verifier.
-- No order.
--   run_id, iteration, policy_id, trajectory_id, group_id, sample_index    as in trajectories
--   prompt_id, source, split, problem, gold_answer    as in prompts
--   response_text    as in responses; null: the response is lost
--   extracted_answer, verdict, reward, verifier_id    as in verdicts; null: not judged yet, or null in verdicts
--   finish_reason, n_prompt_tokens, n_response_tokens, temperature, behaviour_logprob_sum    as in trajectories
WITH asked AS (
    SELECT run_id, score_verifier AS verifier FROM run_settings
    UNION ALL
    SELECT NULL, NULL  -- imported rollouts have no run
),
ranked AS (
    SELECT
        a.run_id, j.verifier_id,
        row_number() OVER (
            PARTITION BY a.run_id
            ORDER BY
                j.verifier_id = a.verifier DESC, j.name = a.verifier DESC, j.name = 'imported' DESC,
                j.name DESC, j.version DESC, j.verifier_id DESC
        ) AS rank
    FROM asked a
    CROSS JOIN judges j
),
disputed AS (
    SELECT trajectory_id FROM verdicts GROUP BY trajectory_id HAVING count(*) > 1
),
judged AS (
    SELECT v.trajectory_id, v.verifier_id, v.verdict, v.reward, v.extracted_answer
    FROM verdicts v
    ANTI JOIN disputed d USING (trajectory_id)
    UNION ALL
    SELECT v.trajectory_id, v.verifier_id, v.verdict, v.reward, v.extracted_answer
    FROM verdicts v
    SEMI JOIN disputed d USING (trajectory_id)
    JOIN trajectories t USING (trajectory_id)
    LEFT JOIN runs r USING (run_id)
    JOIN ranked k ON k.verifier_id = v.verifier_id AND k.run_id IS NOT DISTINCT FROM r.run_id
    QUALIFY row_number() OVER (PARTITION BY v.trajectory_id ORDER BY k.rank) = 1
)
SELECT
    t.run_id, t.iteration, t.policy_id, t.trajectory_id, t.group_id, t.sample_index,
    p.prompt_id, p.source, p.split, p.problem, p.gold_answer,
    r.response_text, j.extracted_answer, j.verdict, j.reward, j.verifier_id,
    t.finish_reason, t.n_prompt_tokens, t.n_response_tokens, t.temperature, t.behaviour_logprob_sum
FROM trajectories t
JOIN prompts p USING (prompt_id)
LEFT JOIN responses r USING (trajectory_id)
LEFT JOIN judged j USING (trajectory_id)
