-- One row per problem that is in two splits of one source. No order.
SELECT source || ': ' || left(problem, 80) AS row, 'in splits ' || string_agg(DISTINCT split, ', ' ORDER BY split) AS problem
FROM prompts
GROUP BY source, problem
HAVING count(DISTINCT split) > 1
