-- Inputs: the table chances (the result of a draw rule), the table taken (trajectory_id: rows the update has already);
-- salt, n_draws, youngest (age_iterations). One row per draw, in the order of slots. Units are drawn one after the other
-- without repetition, in proportion to their chance, until the next unit would not fit into n_draws. A keyed digest
-- replaces random numbers, so the draw is the same for any thread count and file layout. With u uniform from a digest of
-- salt and unit, the order of -ln(u) / chance is that of drawing without replacement (Efraimidis and Spirakis, 2006).
SELECT trajectory_id, chance
FROM (
    SELECT
        trajectory_id, coalesce(unit, trajectory_id) AS unit, n_rows, chance,
        -ln(1 - ('0x' || left(md5($salt || coalesce(unit, trajectory_id)), 13))::BIGINT / 4503599627370496.0) / chance AS key
    FROM chances
    WHERE chance > 0 AND age_iterations >= $youngest
        AND coalesce(unit, trajectory_id) NOT IN (
            SELECT coalesce(c.unit, c.trajectory_id) FROM chances c SEMI JOIN taken USING (trajectory_id)
        )
    ORDER BY key, unit, trajectory_id
    LIMIT $n_draws
)
QUALIFY count(*) OVER (PARTITION BY unit) = n_rows
ORDER BY key, unit, trajectory_id
