-- One row per group whose samples are not numbered 0 to n - 1, where n is the number that its run asked for, or that has
-- several prompts or policies. No order.
WITH groups AS (
    SELECT
        group_id, any_value(run_id) AS run_id, count(*) AS n, count(DISTINCT sample_index) AS n_places,
        min(sample_index) AS first, max(sample_index) AS last,
        count(DISTINCT prompt_id) AS n_prompts, count(DISTINCT policy_id) AS n_policies
    FROM trajectories
    GROUP BY group_id
)
SELECT
    g.group_id AS row,
    'of run ' || g.run_id || ': ' || g.n || ' samples from ' || g.first || ' to ' || g.last
        || coalesce(' of ' || r.generate_samples_per_prompt, '') AS problem
FROM groups g
LEFT JOIN run_settings r USING (run_id)
WHERE g.n_places <> g.n OR g.first <> 0 OR g.last <> g.n - 1 OR g.n_prompts <> 1 OR g.n_policies <> 1
    OR g.n <> r.generate_samples_per_prompt
