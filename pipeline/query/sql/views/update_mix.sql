-- update_mix: one row per pass and update, with statistics of its draws. A pass appears as soon as its draws are made,
-- before it is trained. No order.
--   pass_id, update          as in draws
--   run_id, iteration        of the pass
--   n_draws, n_fresh, n_replayed    number of its draws: all, and by source
--   mean_age_iterations, max_age_iterations    of its draws, in iterations
--   n_prompts                different questions among its draws
--   n_prompts_answered       training questions that the pass could have drawn if its window had no limit: those with a
--                            judged answer in a run that it drew from, up to the newest iteration it could see
--   prompt_coverage          n_prompts / n_prompts_answered
--   effective_sample_size    (sum of weights)^2 / sum of squared weights: n_draws if all weights are equal
--   duplicate_share          share of its draws whose trajectory an earlier update of the same pass drew too
--   mean_reward              of its draws
--   mean_abs_residual        of its draws, in nats; null: not trained yet
WITH drawn AS (
    SELECT
        d.pass_id, d.update, d.source, d.age_iterations, d.weight, d.reward,
        t.prompt_id, t.run_id AS drawn_from, t.iteration + d.age_iterations AS newest,
        min(d.update) OVER (PARTITION BY d.pass_id, d.trajectory_id) < d.update AS is_duplicate
    FROM draws d
    JOIN trajectories t USING (trajectory_id)
),
mixed AS (
    SELECT
        pass_id, update,
        count(*) AS n_draws,
        count(*) FILTER (source = 'fresh') AS n_fresh,
        count(*) FILTER (source = 'replay') AS n_replayed,
        avg(age_iterations) AS mean_age_iterations,
        max(age_iterations) AS max_age_iterations,
        count(DISTINCT prompt_id) AS n_prompts,
        sum(weight) ** 2 / sum(weight ** 2) AS effective_sample_size,
        avg(is_duplicate::INT) AS duplicate_share,
        avg(reward) AS mean_reward
    FROM drawn
    GROUP BY pass_id, update
),
scopes AS (
    SELECT pass_id, max(newest) AS newest, list_sort(list(DISTINCT drawn_from)) AS drawn_from FROM drawn GROUP BY pass_id
),
judged AS (
    SELECT t.run_id, t.prompt_id, min(t.iteration) AS iteration
    FROM trajectories t
    JOIN prompts q ON q.prompt_id = t.prompt_id AND q.split = 'train'
    SEMI JOIN (SELECT trajectory_id FROM verdicts WHERE reward IS NOT NULL) v ON v.trajectory_id = t.trajectory_id
    GROUP BY t.run_id, t.prompt_id
),
firsts AS (
    SELECT s.drawn_from, j.prompt_id, min(j.iteration) AS iteration
    FROM (SELECT DISTINCT drawn_from FROM scopes) s
    JOIN judged j ON list_contains(s.drawn_from, j.run_id)
    GROUP BY s.drawn_from, j.prompt_id
),
answered AS (
    SELECT
        drawn_from, iteration,
        sum(count(*)) OVER (PARTITION BY drawn_from ORDER BY iteration)::BIGINT AS n_prompts_answered
    FROM firsts
    GROUP BY drawn_from, iteration
),
residuals AS (
    SELECT pass_id, update, avg(abs(residual)) AS mean_abs_residual FROM updates GROUP BY pass_id, update
)
SELECT
    m.pass_id, p.run_id, p.iteration,
    m.update, m.n_draws, m.n_fresh, m.n_replayed, m.mean_age_iterations, m.max_age_iterations,
    m.n_prompts, a.n_prompts_answered, m.n_prompts / a.n_prompts_answered AS prompt_coverage,
    m.effective_sample_size, m.duplicate_share, m.mean_reward, r.mean_abs_residual
FROM mixed m
JOIN scopes s USING (pass_id)
ASOF LEFT JOIN answered a ON a.drawn_from = s.drawn_from AND s.newest >= a.iteration
LEFT JOIN residuals r ON r.pass_id = m.pass_id AND r.update = m.update
LEFT JOIN pass_names p ON p.pass_id = m.pass_id
