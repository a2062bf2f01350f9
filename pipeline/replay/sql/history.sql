-- Inputs: the table ancestors (pass_id, number). One row per trajectory that these passes trained on: how often, and its
-- residual the last time. No order.
SELECT d.trajectory_id, count(*) AS n_uses, max_by(u.residual, (a.number, d.update)) AS residual
FROM draws d
JOIN ancestors a USING (pass_id)
JOIN updates u ON u.pass_id = d.pass_id AND u.update = d.update AND u.slot = d.slot
GROUP BY d.trajectory_id
