-- Inputs: pass_id. At most one row: the figures of the steps of a pass; no row if it made no step.
SELECT
    t.residual_rms, t.value_gap_rms, t.log_ratio_rms, t.target_rms, t.kl, t.entropy, t.clipped_share, p.grad_norm,
    t.clipped_token_share, t.tokens_per_second, t.peak_memory_bytes, t.flop_utilisation
FROM training t
JOIN passes p USING (pass_id)
WHERE pass_id = $pass_id AND p.n_updates > 0
