-- Inputs: pass_id. One row per draw of the pass, in the order of training.
SELECT update, slot, trajectory_id, weight, reward, baseline, deviation
FROM draws
WHERE pass_id = $pass_id
ORDER BY update, slot
