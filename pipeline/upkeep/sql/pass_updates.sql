-- Inputs: pass_id. One row per draw of the pass with the terms of Eq. 2, in the order of training.
SELECT update, slot, residual, value_gap, log_ratio, target
FROM updates
WHERE pass_id = $pass_id
ORDER BY update, slot
