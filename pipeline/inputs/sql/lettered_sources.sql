-- No inputs. One row per source whose held-out questions all have a letter from A to D as gold answer. Ordered by source.
SELECT source
FROM prompts
WHERE split = 'heldout'
GROUP BY source
HAVING bool_and(regexp_full_match(trim(gold_answer), '\(?[A-D]\)?'))
ORDER BY source
