-- scores: one row per policy, benchmark, temperature and figure of its answers. Every question counts the same, and an answer
-- without a judgement is not correct. k is the number of answers that every question has; answers beyond that are left out.
-- Figures: greedy is the share of questions answered correctly at temperature 0. avg@k is the mean share of correct answers.
-- pass@j is the chance that at least one of j answers is correct, unbiased: 1 - C(k - c, j) / C(k, j) for c correct ones of k.
-- maj@k is the share of questions whose most frequent answer is correct. Two answers are the same if their text is, without
-- white space and dollar signs, or their number. Of equally frequent answers the one given first counts, which favours none.
-- A response in which no answer was read has no vote. If a verifier does not say what it read, the whole text votes. No order.
--   policy_id, benchmark, temperature    as in evaluations
--   score          the figure's name: greedy, avg@k, pass@j or maj@k, with its number
--   value          the figure
--   low            lower end of its 95 % interval, where the questions are taken as a sample: the normal interval after adding
--                  two questions with value 0 and two with value 1 (Agresti and Coull 1998), so that it is never empty
--   high           upper end of that interval
--   n_prompts      questions
--   n_too_long     questions that leave no room in the policy's context
--   kind           the figure without its number: avg (also where score is greedy), pass or maj
--   j              its number
WITH sizes AS (
    SELECT policy_id, benchmark, temperature, min(n) AS k
    FROM (SELECT policy_id, benchmark, temperature, prompt_id, count(*) AS n FROM evaluations GROUP BY ALL)
    GROUP BY ALL
),
answers AS (
    SELECT
        policy_id, benchmark, temperature, prompt_id, e.sample_index, s.k,
        e.verdict = 'correct' AS is_correct,
        e.finish_reason = 'prompt_too_long' AS is_too_long,
        CASE WHEN e.verdict IN ('correct', 'wrong')
            THEN regexp_replace(coalesce(e.extracted_answer, e.response_text), '[\s$]', '', 'g') END AS said
    FROM evaluations e
    JOIN sizes s USING (policy_id, benchmark, temperature)
    WHERE e.sample_index < s.k
),
votes AS (
    SELECT
        policy_id, benchmark, temperature, prompt_id,
        -- Of 15 digits a DOUBLE forgets none.
        coalesce(CASE WHEN len(said) <= 15 THEN try_cast(said AS DOUBLE)::VARCHAR END, said) AS answer,
        count(*) AS n_votes, min(sample_index) AS first_index, min_by(is_correct, sample_index) AS is_correct
    FROM answers
    WHERE said IS NOT NULL
    GROUP BY ALL
),
majorities AS (
    SELECT
        policy_id, benchmark, temperature, prompt_id, max_by(is_correct, (n_votes, -first_index)) AS is_correct
    FROM votes
    GROUP BY ALL
),
questions AS (
    SELECT
        policy_id, benchmark, temperature, prompt_id, a.k,
        sum(a.is_correct::INT) AS c, bool_or(a.is_too_long) AS is_too_long,
        coalesce(bool_or(m.is_correct), false) AS is_majority_correct
    FROM answers a
    LEFT JOIN majorities m USING (policy_id, benchmark, temperature, prompt_id)
    GROUP BY ALL
),
figures AS (
    SELECT k, 'avg' AS kind, k AS j FROM sizes
    UNION SELECT k, 'maj', k FROM sizes WHERE k > 1
    UNION SELECT k, 'pass', k FROM sizes WHERE k > 1
    UNION SELECT k, 'pass', (2 ** unnest(range(1, 1 + floor(log2(k))::BIGINT)))::BIGINT FROM sizes
),
valued AS (
    SELECT
        q.policy_id, q.benchmark, q.temperature, q.is_too_long, f.kind, f.j,
        CASE f.kind
            WHEN 'avg' THEN q.c / q.k
            WHEN 'maj' THEN q.is_majority_correct::INT
            ELSE 1 - list_product([(q.k - q.c - i) / (q.k - i) FOR i IN range(f.j)])
        END AS value
    FROM questions q
    JOIN figures f USING (k)
),
smoothed AS (
    SELECT
        policy_id, benchmark, temperature, kind, j,
        count(*) AS n_prompts, count(*) FILTER (is_too_long) AS n_too_long, avg(value) AS value,
        (sum(value) + 2) / (count(*) + 4) AS centre,
        (sum(value * value) + 2) / (count(*) + 4) - ((sum(value) + 2) / (count(*) + 4)) ** 2 AS variance
    FROM valued
    GROUP BY ALL
)
SELECT
    policy_id, benchmark, temperature,
    CASE WHEN temperature = 0 THEN 'greedy' ELSE kind || '@' || j END AS score,
    value,
    greatest(0.0, centre - 1.96 * sqrt(variance / (n_prompts + 4))) AS low,
    least(1.0, centre + 1.96 * sqrt(variance / (n_prompts + 4))) AS high,
    n_prompts, n_too_long, kind, j
FROM smoothed
