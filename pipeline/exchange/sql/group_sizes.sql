-- Inputs: asked (group_id). One row per asked group that is in the archive, with its number of rollouts. No order.
SELECT group_id, count(*) AS n_rollouts
FROM trajectories
SEMI JOIN asked USING (group_id)
GROUP BY group_id
