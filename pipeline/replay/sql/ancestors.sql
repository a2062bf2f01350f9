-- Inputs: policy_id. One row per pass that led to the policy, its own included, with its place from 1, oldest first.
-- Materialised: the recursion would read the table's files anew at every step.
WITH RECURSIVE known AS MATERIALIZED (
    SELECT policy_id, parent_id, pass_id, run_id, iteration, count(*) OVER () AS n_policies FROM policies
),
line AS (
    SELECT policy_id, parent_id, pass_id, run_id, iteration, 0 AS back FROM known WHERE policy_id = $policy_id
    UNION ALL
    SELECT p.policy_id, p.parent_id, p.pass_id, p.run_id, p.iteration, l.back + 1
    FROM line l
    JOIN known p ON p.policy_id = l.parent_id AND l.back < p.n_policies  -- parents may go in a circle in an import
)
SELECT pass_id, run_id, iteration, row_number() OVER (ORDER BY back DESC) AS number
FROM line
WHERE pass_id IS NOT NULL
ORDER BY number
