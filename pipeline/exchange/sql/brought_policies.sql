-- Inputs: named, rollouts; policies of the other archive; here_policies. One row per policy that made these rollouts
-- and that this archive lacks, without its parent, run, pass and location. Ordered by policy.
SELECT p.* REPLACE (
    n.policy_id AS policy_id, NULL AS parent_id, NULL AS run_id, NULL AS iteration, NULL AS pass_id, NULL AS location
)
FROM named n
JOIN policies p ON p.policy_id = n.their_id
SEMI JOIN rollouts r ON r.policy_id = n.policy_id
ANTI JOIN here_policies h ON h.policy_id = n.policy_id
QUALIFY row_number() OVER (PARTITION BY n.policy_id ORDER BY n.their_id) = 1
ORDER BY n.policy_id
