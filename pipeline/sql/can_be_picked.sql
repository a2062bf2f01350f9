-- Inputs: the tables chances and taken, as for pick; youngest (age_iterations). One row: how many rows could be picked.
SELECT count(*) AS n_rows
FROM chances
WHERE chance > 0 AND age_iterations >= $youngest
    AND unit NOT IN (SELECT c.unit FROM chances c SEMI JOIN taken USING (trajectory_id))
