-- disagreements: one row per rollout and pair of verifiers that judged it differently. No order.
--   trajectory_id, policy_id, source    the rollout, the policy that generated it, and the source of its question
--   problem, gold_answer    the question and its right answer
--   verifier_a, verdict_a, extracted_a    one verifier, its verdict, and the answer it read; null: it found no answer
--   verifier_b, verdict_b, extracted_b    the same of the other verifier, whose id is later in the alphabet
--   response_text    as in responses; null: the response is lost
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
