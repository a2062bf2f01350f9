-- evaluation_answers: one row per answer that scores count: the first k answers to each question. No order.
--   policy_id, benchmark, temperature, prompt_id, sample_index    as in evaluations
--   k              answers that every question has at least, for this policy, benchmark and temperature
--   is_correct     whether the verdict is correct; an answer without a judgement is not
--   is_too_long    whether the question leaves no room for an answer in the policy's context
--   vote           the answer as it counts for the majority: its number, or its text without white space and dollar
--                  signs. If the verifier keeps no answer, the whole response. Null: no answer was read, and it does
--                  not count
WITH counted AS (
    SELECT policy_id, benchmark, temperature, prompt_id, count(*) AS n FROM evaluations GROUP BY ALL
),
sizes AS (
    SELECT policy_id, benchmark, temperature, min(n) AS k FROM counted GROUP BY ALL
),
said AS (
    SELECT
        policy_id, benchmark, temperature, e.prompt_id, e.sample_index, s.k,
        e.verdict = 'correct' AS is_correct,
        e.finish_reason = 'prompt_too_long' AS is_too_long,
        CASE WHEN e.verdict IN ('correct', 'wrong')
            THEN regexp_replace(coalesce(e.extracted_answer, e.response_text), '[\s$]', '', 'g') END AS text
    FROM evaluations e
    JOIN sizes s USING (policy_id, benchmark, temperature)
    WHERE e.sample_index < s.k
)
SELECT
    policy_id, benchmark, temperature, prompt_id, sample_index, k, is_correct, is_too_long,
    -- A DOUBLE keeps 15 digits; numbers with more are compared as text.
    coalesce(CASE WHEN len(text) <= 15 THEN try_cast(text AS DOUBLE)::VARCHAR END, text) AS vote
FROM said
