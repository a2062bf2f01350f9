-- Inputs: source. One row per prompt of the source. No order.
SELECT prompt_id
FROM prompts
WHERE source = $source
