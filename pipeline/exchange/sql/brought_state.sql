-- No inputs; over the other archive. One row: how many rollouts and verdicts it has, and a digest of each set.
-- The order of rows and their files make no difference.
SELECT
    (SELECT [count(*)::VARCHAR, bit_xor(md5_number(concat_ws('/', t.trajectory_id, p.weights_digest)))::VARCHAR]
        FROM trajectories t JOIN policies p USING (policy_id)) AS rollouts,
    (SELECT [count(*)::VARCHAR, bit_xor(md5_number(concat_ws('/', trajectory_id, verifier_id, verdict)))::VARCHAR]
        FROM verdicts) AS judgements
