-- Inputs: the tables chances and taken and the number youngest, as in pick.sql. One row: how many rows could be picked.
SELECT count(*) AS n_rows
FROM chances
WHERE chance > 0 AND age_iterations >= $youngest
    AND coalesce(unit, trajectory_id) NOT IN (
        SELECT coalesce(c.unit, c.trajectory_id) FROM chances c SEMI JOIN taken USING (trajectory_id)
    )
