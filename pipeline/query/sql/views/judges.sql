-- judges: one row per verifier that judged something here, and how many rollouts it judged. No order.
--   version      the numbers in its id, as numbers: in their order, 0.10 comes after 0.9
SELECT
    verifier_id, split_part(verifier_id, '@', 1) AS name,
    list_transform(regexp_extract_all(verifier_id, '\d+'), lambda digits: try_cast(digits AS BIGINT)) AS version,
    count(*) AS n_verdicts
FROM verdicts
GROUP BY verifier_id
