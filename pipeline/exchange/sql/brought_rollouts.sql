-- Inputs: import_id; matches, named, files; trajectories and responses of the other archive; here_trajectories. One row
-- per rollout that this archive lacks: its row for trajectories, its number of tokens, and the path and row of its
-- response in the other archive. Ordered by place, from 0: groups stay together and keep their order, otherwise by path
-- and row.
WITH lacking AS (
    SELECT
        m.their_id, m.trajectory_id, n.policy_id, n.tokenizer_digest, n.weights,
        if(m.ids = 'renamed', md5(concat_ws('/', t.group_id, n.weights)), t.group_id) AS group_id,
        f.path, r.file_row_number AS row
    FROM matches m
    JOIN trajectories t ON t.trajectory_id = m.their_id
    JOIN named n ON n.their_id = t.policy_id
    JOIN responses r ON r.trajectory_id = m.their_id
    JOIN files f USING (filename)
    WHERE m.state = 'lacking'
),
-- This archive may already have some rollouts of a group, if an import brought part of it.
sizes AS (
    SELECT group_id, count(*) AS n_here FROM here_trajectories SEMI JOIN lacking USING (group_id) GROUP BY group_id
),
rows AS (
    -- All other columns, and any that are added later, are facts about the rollout and the same in every archive.
    SELECT
        t.* REPLACE (
            l.trajectory_id AS trajectory_id, l.group_id AS group_id, l.policy_id AS policy_id, $import_id AS run_id,
            coalesce(s.n_here, 0) + row_number() OVER (
                PARTITION BY l.group_id ORDER BY t.sample_index, l.trajectory_id
            ) - 1 AS sample_index,
            $import_id AS import_id, NULL AS line,
            coalesce(t.tokenizer_digest, l.tokenizer_digest) AS tokenizer_digest
        ),
        l.path, l.row, min((l.path, l.row)) OVER (PARTITION BY l.group_id) AS group_place
    FROM lacking l
    JOIN trajectories t ON t.trajectory_id = l.their_id
    LEFT JOIN sizes s ON s.group_id = l.group_id
)
SELECT
    * EXCLUDE (group_place),
    -- A text without token ids counts as 1000 tokens.
    coalesce(n_prompt_tokens + n_response_tokens, 1000) AS n_tokens,
    row_number() OVER (ORDER BY group_place, group_id, sample_index) - 1 AS place
FROM rows
ORDER BY place
