-- trajectory_uses: one row per trajectory: how often passes of any run drew it, and its last residual. No order.
--   run_id, iteration, policy_id, prompt_id, trajectory_id    as in trajectories
--   n_uses, n_passes    its draws in all updates of all passes, and the passes that drew it; 0: never drawn
--   n_fresh, n_replayed    these draws by source
--   min_age_iterations, max_age_iterations    its least and greatest age when drawn, in iterations; null: never drawn
--   last_pass_id    the last pass that trained on it; null: no pass has yet. Passes are in the order in which their train
--                   stages ended (created_at of the stage's snapshot; a pass without one comes last), then by pass_id
--   last_residual    its residual in the last update of that pass, in nats; null: no pass has trained on it yet
WITH ended AS (
    SELECT p.pass_id, row_number() OVER (ORDER BY s.created_at NULLS LAST, p.pass_id) AS number
    FROM passes p
    LEFT JOIN snapshots s ON s.run_id = p.run_id AND s.iteration = p.iteration AND s.stage = 'train'
),
by_pass AS (
    SELECT
        d.trajectory_id, d.pass_id,
        count(*) AS n_uses,
        count(*) FILTER (d.source = 'fresh') AS n_fresh,
        count(*) FILTER (d.source = 'replay') AS n_replayed,
        min(d.age_iterations) AS min_age_iterations,
        max(d.age_iterations) AS max_age_iterations,
        max_by(u.residual, d.update) AS last_residual
    FROM draws d
    LEFT JOIN updates u ON u.pass_id = d.pass_id AND u.update = d.update AND u.slot = d.slot
    GROUP BY d.trajectory_id, d.pass_id
),
used AS (
    SELECT
        b.trajectory_id,
        sum(b.n_uses)::BIGINT AS n_uses,
        count(*) AS n_passes,
        sum(b.n_fresh)::BIGINT AS n_fresh,
        sum(b.n_replayed)::BIGINT AS n_replayed,
        min(b.min_age_iterations) AS min_age_iterations,
        max(b.max_age_iterations) AS max_age_iterations,
        max_by(b.pass_id, e.number) AS last_pass_id,
        max_by(b.last_residual, e.number) AS last_residual
    FROM by_pass b
    LEFT JOIN ended e USING (pass_id)
    GROUP BY b.trajectory_id
)
SELECT
    t.run_id, t.iteration, t.policy_id, t.prompt_id, t.trajectory_id,
    coalesce(u.n_uses, 0) AS n_uses, coalesce(u.n_passes, 0) AS n_passes,
    coalesce(u.n_fresh, 0) AS n_fresh, coalesce(u.n_replayed, 0) AS n_replayed,
    u.min_age_iterations, u.max_age_iterations, u.last_pass_id, u.last_residual
FROM trajectories t
LEFT JOIN used u USING (trajectory_id)
