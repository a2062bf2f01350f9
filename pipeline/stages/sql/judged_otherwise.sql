-- Inputs: wanted (trajectory_id); verifier_id. One row per other verifier and pair of different verdicts, its own and
-- this verifier's, and on how many of these rollouts they differ so. Ordered by verifier, most frequent first.
SELECT o.verifier_id AS other_verifier, o.verdict AS its_verdict, v.verdict AS this_verdict, count(*) AS n_rollouts
FROM verdicts v
SEMI JOIN wanted w USING (trajectory_id)
JOIN verdicts o ON o.trajectory_id = v.trajectory_id AND o.verifier_id <> v.verifier_id AND o.verdict <> v.verdict
WHERE v.verifier_id = $verifier_id
GROUP BY ALL
ORDER BY other_verifier, n_rollouts DESC, its_verdict, this_verdict
