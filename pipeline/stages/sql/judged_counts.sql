-- Inputs: wanted (trajectory_id); verifier_id. One row per verdict of this verifier on these rollouts: how many have it,
-- and the seconds that judging took, in total and at most (null: labels, which took none). Most frequent first.
SELECT v.verdict, count(*) AS n_rollouts, sum(v.seconds) AS seconds, max(v.seconds) AS max_seconds
FROM verdicts v
SEMI JOIN wanted w USING (trajectory_id)
WHERE v.verifier_id = $verifier_id
GROUP BY v.verdict
ORDER BY n_rollouts DESC, v.verdict
