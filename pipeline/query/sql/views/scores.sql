-- scores: one row per policy, benchmark, temperature and score, the mean of a value over questions. No order.
--   policy_id, benchmark, temperature    as in evaluations
--   score          greedy: 1 for a correct answer at temperature 0, otherwise 0. At other temperatures, from k answers:
--                  avg@k: share of correct answers. maj@k: 1 if the most frequent answer is correct, otherwise 0.
--                  pass@j: chance that at least one of j answers is correct; the unbiased estimate
--                  1 - C(k - c, j) / C(k, j), if c of the k answers are correct
--   value          the mean
--   low, high      a 95 % interval for the mean, with the questions as a sample: the normal interval after two questions
--                  of value 0 and two of value 1 are added (Agresti and Coull 1998), so that its width is not 0 if all
--                  values are equal
--   n_prompts      questions
--   n_too_long     questions that leave no room for an answer in the policy's context
--   kind, j        the two parts of the score's name: avg, maj or pass, and the number
WITH figures AS (
    SELECT
        policy_id, benchmark, temperature, k, n_correct, is_too_long, is_majority_correct,
        -- avg@k; if k > 1 also maj@k, and pass@j for j = 2, 4, 8, ... and k.
        unnest(
            [{'kind': 'avg', 'j': k}]
            || [{'kind': 'maj', 'j': j} FOR j IN [k] IF k > 1]
            || [
                {'kind': 'pass', 'j': j}
                FOR j IN list_distinct([(2 ** i)::BIGINT FOR i IN range(1, 1 + floor(log2(k))::BIGINT)] || [k]) IF k > 1
            ]
        ) AS f
    FROM evaluation_questions
),
valued AS (
    SELECT
        policy_id, benchmark, temperature, is_too_long, f.kind, f.j,
        CASE f.kind
            WHEN 'avg' THEN n_correct / k
            WHEN 'maj' THEN is_majority_correct::INT
            ELSE 1 - list_product([(k - n_correct - i) / (k - i) FOR i IN range(f.j)])
        END AS value
    FROM figures
),
totals AS (
    SELECT
        policy_id, benchmark, temperature, kind, j,
        count(*) AS n_prompts, count(*) FILTER (is_too_long) AS n_too_long,
        -- In a fixed order, because the last digits of a sum of floats depend on the order.
        sum(value ORDER BY value) AS total, sum(value * value ORDER BY value) AS squares
    FROM valued
    GROUP BY ALL
),
smoothed AS (
    SELECT
        policy_id, benchmark, temperature, kind, j, n_prompts, n_too_long, total / n_prompts AS value,
        (total + 2) / (n_prompts + 4) AS centre,
        1.96 * sqrt(((squares + 2) / (n_prompts + 4) - centre ** 2) / (n_prompts + 4)) AS reach
    FROM totals
)
SELECT
    policy_id, benchmark, temperature, CASE WHEN temperature = 0 THEN 'greedy' ELSE kind || '@' || j END AS score,
    value, greatest(0.0, centre - reach) AS low, least(1.0, centre + reach) AS high, n_prompts, n_too_long, kind, j
FROM smoothed
