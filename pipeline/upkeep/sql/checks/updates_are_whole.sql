-- One row per update of a pass whose slots are not 0 to n - 1, or that draws a trajectory twice. No order.
SELECT pass_id || '/' || update AS row, count(*) || ' draws in slots ' || min(slot) || ' to ' || max(slot) AS problem
FROM draws
GROUP BY pass_id, update
HAVING count(DISTINCT slot) <> count(*) OR min(slot) <> 0 OR max(slot) <> count(*) - 1
    OR count(DISTINCT trajectory_id) <> count(*)
