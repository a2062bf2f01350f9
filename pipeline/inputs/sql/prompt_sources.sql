-- No inputs. One row per source of prompts, with how many of each split. Ordered by source.
SELECT
    source,
    count(*) FILTER (split = 'train') AS n_train,
    count(*) FILTER (split = 'heldout') AS n_heldout
FROM prompts
GROUP BY source
ORDER BY source
