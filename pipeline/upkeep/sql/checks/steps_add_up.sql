-- One row per update of a finished pass that has no step, or whose step has another number of draws; and per pass whose
-- steps do not have the recorded number of tokens. No order. Draws of a pass that is not finished have no steps yet.
WITH drawn AS (
    SELECT pass_id, update, count(*) AS n FROM draws SEMI JOIN passes USING (pass_id) GROUP BY pass_id, update
),
stepped AS (
    SELECT pass_id, update, n_trajectories, n_tokens FROM steps SEMI JOIN passes USING (pass_id)
)
SELECT
    coalesce(d.pass_id, s.pass_id) || '/' || coalesce(d.update, s.update) AS row,
    coalesce('a step of ' || s.n_trajectories, 'no step') || ' for ' || coalesce(d.n, 0) || ' draws' AS problem
FROM drawn d
FULL JOIN stepped s ON s.pass_id = d.pass_id AND s.update = d.update
WHERE d.n IS DISTINCT FROM s.n_trajectories
UNION ALL
SELECT p.pass_id, 'says ' || p.n_tokens || ' tokens and its steps ' || sum(s.n_tokens)::BIGINT
FROM passes p
JOIN stepped s USING (pass_id)
GROUP BY p.pass_id, p.n_tokens
HAVING p.n_tokens <> sum(s.n_tokens)
