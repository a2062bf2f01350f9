-- Inputs: policy_id. One row per pass that led to the policy, including the pass that made it, numbered from 1, oldest
-- first.
-- Materialised, because the recursion would otherwise read the table's files again at every step.
WITH RECURSIVE known AS MATERIALIZED (
    SELECT policy_id, parent_id, pass_id, run_id, iteration, count(*) OVER () AS n_policies FROM policies
),
line AS (
    SELECT policy_id, parent_id, pass_id, run_id, iteration, 0 AS back FROM known WHERE policy_id = $policy_id
    UNION ALL
    SELECT p.policy_id, p.parent_id, p.pass_id, p.run_id, p.iteration, l.back + 1
    FROM line l
    JOIN known p ON p.policy_id = l.parent_id AND l.back < p.n_policies  -- imported parents may form a circle
)
SELECT pass_id, run_id, iteration, row_number() OVER (ORDER BY back DESC) AS number
FROM line
WHERE pass_id IS NOT NULL
ORDER BY number
