-- evaluation_questions: one row per policy, benchmark, temperature and question, taken over the answers that scores
-- count. No order.
--   policy_id, benchmark, temperature, prompt_id    as in evaluations
--   k, n_correct    its answers, and how many of them are correct
--   is_too_long     whether it leaves no room for an answer in the policy's context
--   is_majority_correct    whether its most frequent answer is correct; if several are equally frequent, the first given
WITH votes AS (
    SELECT
        policy_id, benchmark, temperature, prompt_id, k, vote,
        count(*) AS n_votes, min(sample_index) AS first_index, min_by(is_correct, sample_index) AS is_first_correct,
        sum(is_correct::INT) AS n_correct, bool_or(is_too_long) AS is_too_long
    FROM evaluation_answers
    GROUP BY ALL
)
SELECT
    policy_id, benchmark, temperature, prompt_id, k, sum(n_correct) AS n_correct, bool_or(is_too_long) AS is_too_long,
    coalesce(max_by(is_first_correct, (n_votes, -first_index)) FILTER (vote IS NOT NULL), false) AS is_majority_correct
FROM votes
GROUP BY ALL
