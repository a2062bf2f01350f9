-- judges: one row per verifier that judged rollouts of this archive. No order.
--   verifier_id    as in verdicts
--   name           the verifier's name: its id up to the @
--   version        the numbers in its id, as a list of numbers, so that 0.10 comes after 0.9
--   n_verdicts     rollouts that it judged
SELECT
    verifier_id, split_part(verifier_id, '@', 1) AS name,
    list_transform(regexp_extract_all(verifier_id, '\d+'), lambda digits: try_cast(digits AS BIGINT)) AS version,
    count(*) AS n_verdicts
FROM verdicts
GROUP BY verifier_id
