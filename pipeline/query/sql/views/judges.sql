-- judges: one row per verifier that judged something in this archive. No order.
--   verifier_id    as in verdicts
--   name           its name, without the version
--   version        the numbers in its id, as numbers, so that 0.10 comes after 0.9
--   n_verdicts     rollouts that it judged
SELECT
    verifier_id, split_part(verifier_id, '@', 1) AS name,
    list_transform(regexp_extract_all(verifier_id, '\d+'), lambda digits: try_cast(digits AS BIGINT)) AS version,
    count(*) AS n_verdicts
FROM verdicts
GROUP BY verifier_id
