-- Inputs: the candidates; pass_id. One row per draw of update 0: the whole of the newest iteration, each row once.
-- The order within the update is a keyed digest. Ordered by slot.
SELECT
    0::BIGINT AS update,
    row_number() OVER (ORDER BY md5(concat_ws('/', $pass_id, 0, trajectory_id))) - 1 AS slot,
    trajectory_id, 'fresh' AS source, age_iterations, 1::DOUBLE AS weight, reward, baseline
FROM candidates
WHERE age_iterations = 0
ORDER BY slot
