-- disagreements: one row per rollout and pair of verifiers whose verdicts on it differ. No order.
--   trajectory_id, policy_id    as in trajectories
--   source, problem, gold_answer    as in prompts
--   verifier_a     one verifier
--   verdict_a      its verdict
--   extracted_a    the answer that it read; null: it read none
--   verifier_b     the other verifier, which is later by name
--   verdict_b      its verdict
--   extracted_b    the answer that it read; null: it read none
--   response_text    as in responses; null: its row is lost
SELECT
    t.trajectory_id, t.policy_id, p.source, p.problem, p.gold_answer,
    a.verifier_id AS verifier_a, a.verdict AS verdict_a, a.extracted_answer AS extracted_a,
    b.verifier_id AS verifier_b, b.verdict AS verdict_b, b.extracted_answer AS extracted_b,
    r.response_text
FROM verdicts a
JOIN verdicts b ON b.trajectory_id = a.trajectory_id AND b.verifier_id > a.verifier_id AND b.verdict <> a.verdict
JOIN trajectories t ON t.trajectory_id = a.trajectory_id
JOIN prompts p ON p.prompt_id = t.prompt_id
LEFT JOIN responses r ON r.trajectory_id = a.trajectory_id
