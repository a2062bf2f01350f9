-- One row per group whose samples are not 0 to n - 1, of one prompt and one policy; n is what its run asked for. No order.
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
        || coalesce(' of ' || json_extract_string(r.config, '$.generate.samples_per_prompt'), '') AS problem
FROM groups g
LEFT JOIN runs r USING (run_id)
WHERE g.n_places <> g.n OR g.first <> 0 OR g.last <> g.n - 1 OR g.n_prompts <> 1 OR g.n_policies <> 1
    OR g.n <> coalesce(json_extract(r.config, '$.generate.samples_per_prompt')::BIGINT, g.n)
