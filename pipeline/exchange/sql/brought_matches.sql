-- Inputs: trajectories, prompts and responses of the other archive; named; here_trajectories, here_policies. One row per
-- whole rollout of the other archive: its id here, and whether it is `lacking`, `known`, or known but `unlike`: generated
-- again from the same seed, with other tokens. No order.
-- A rollout is known if its id and its policy's weights match. Ids match if both are equal, or if the id of one is the id
-- that an import would give the other (`other_id`). So the order of imports makes no difference.
WITH ours AS (
    SELECT
        t.trajectory_id, coalesce(p.weights_digest, '') AS weights,
        md5(concat_ws('/', t.trajectory_id, weights)) AS other_id,
        t.n_response_tokens, t.behaviour_logprob_sum
    FROM here_trajectories t
    JOIN here_policies p USING (policy_id)
),
theirs AS (
    SELECT
        t.trajectory_id, n.weights, md5(concat_ws('/', t.trajectory_id, n.weights)) AS other_id,
        t.n_response_tokens, t.behaviour_logprob_sum,
        -- Ids of generated rollouts follow from the run's name, and many archives use the same names: a run of this
        -- archive could later make a rollout with this id. Imported rollouts already have ids that no run makes.
        if(t.import_id IS NULL OR n.renamed, 'renamed', 'kept') AS ids
    FROM trajectories t
    JOIN named n ON n.their_id = t.policy_id
    SEMI JOIN prompts USING (prompt_id)
    SEMI JOIN responses r ON r.trajectory_id = t.trajectory_id
),
known AS (
    SELECT a.trajectory_id, b.trajectory_id AS here_id FROM theirs a JOIN ours b USING (trajectory_id, weights)
    UNION ALL
    SELECT a.trajectory_id, b.trajectory_id FROM theirs a JOIN ours b ON b.trajectory_id = a.other_id AND b.weights = a.weights
    UNION ALL
    SELECT a.trajectory_id, b.trajectory_id FROM theirs a JOIN ours b ON b.other_id = a.trajectory_id AND b.weights = a.weights
),
found AS (
    SELECT trajectory_id, min(here_id) AS here_id FROM known GROUP BY trajectory_id
)
SELECT
    t.trajectory_id AS their_id,
    coalesce(f.here_id, if(t.ids = 'renamed', t.other_id, t.trajectory_id)) AS trajectory_id,
    t.ids,
    CASE WHEN f.here_id IS NULL THEN 'lacking'
        WHEN t.n_response_tokens IS NOT DISTINCT FROM o.n_response_tokens
            AND t.behaviour_logprob_sum IS NOT DISTINCT FROM o.behaviour_logprob_sum THEN 'known'
        ELSE 'unlike' END AS state
FROM theirs t
LEFT JOIN found f USING (trajectory_id)
LEFT JOIN ours o ON o.trajectory_id = f.here_id
-- The other archive may itself have a rollout under both ids.
QUALIFY row_number() OVER (PARTITION BY coalesce(f.here_id, if(t.ids = 'renamed', t.other_id, t.trajectory_id)) ORDER BY t.trajectory_id) = 1
