-- progress: one row per run and finished training pass, and one for iteration 0, the policy the run began with. No order.
--   run_id                  the run
--   iteration               the iteration; 0: before the first
--   policy_id               the policy that the iteration ended with
--   train_reward            mean reward of the iteration's own new rollouts; null: it made none
--   heldout_accuracy        share of held-out questions that the policy answers correctly at temperature 0; of several
--                           benchmarks the mean; null: it has not answered all of them
--   heldout_avg_at_k        mean share of correct answers at the sampling temperature; null: as above
--   n_fresh                 draws of the pass with source fresh
--   n_replayed              draws of the pass with source replay
--   mean_age_iterations     mean age of its draws; null: it has none
--   loss                    as in passes; also null: iteration 0
--   seconds_generate, seconds_score, seconds_draw, seconds_reference, seconds_train, seconds_evaluate    seconds of that
--                           stage in this iteration; null: it did not run, or not in one go
--   seconds_overhead        seconds of the iteration outside its stages; null: it did not run in one go
WITH reached AS (
    SELECT run_id, 0 AS iteration, base_policy_id AS policy_id, NULL AS pass_id, NULL AS loss FROM runs
    UNION ALL
    SELECT run_id, iteration, policy_id, pass_id, loss FROM passes
),
fresh AS (
    SELECT run_id, iteration, avg(reward) AS train_reward FROM rollouts GROUP BY ALL
),
asked AS (
    SELECT
        run_id, unnest(string_split(benchmark, ', ')) AS benchmark, len(string_split(benchmark, ', ')) AS n_benchmarks,
        json_extract(config, '$.generate.temperature')::DOUBLE AS temperature
    FROM runs
),
-- Taken together before the join: an archive of many runs has as many pairs of a run and an answer as its square.
answered AS (
    SELECT policy_id, benchmark, temperature, avg((verdict = 'correct')::INT) AS accuracy FROM evaluations GROUP BY ALL
),
accuracies AS (
    SELECT
        a.run_id, a.n_benchmarks, e.policy_id, e.benchmark,
        any_value(e.accuracy) FILTER (e.temperature = 0) AS greedy,
        any_value(e.accuracy) FILTER (e.temperature = a.temperature) AS sampled
    FROM answered e
    JOIN asked a USING (benchmark)
    GROUP BY ALL
),
heldout AS (
    SELECT
        run_id, policy_id,
        CASE WHEN count(greedy) = n_benchmarks THEN avg(greedy) END AS heldout_accuracy,
        CASE WHEN count(sampled) = n_benchmarks THEN avg(sampled) END AS heldout_avg_at_k
    FROM accuracies
    GROUP BY run_id, policy_id, n_benchmarks
),
drawn AS (
    SELECT
        pass_id,
        count(*) FILTER (source = 'fresh') AS n_fresh,
        count(*) FILTER (source = 'replay') AS n_replayed,
        avg(age_iterations) AS mean_age_iterations
    FROM draws
    GROUP BY pass_id
),
times AS (
    SELECT
        run_id, iteration,
        sum(seconds) FILTER (stage = 'generate') AS seconds_generate,
        sum(seconds) FILTER (stage = 'score') AS seconds_score,
        sum(seconds) FILTER (stage = 'draw') AS seconds_draw,
        sum(seconds) FILTER (stage = 'reference') AS seconds_reference,
        sum(seconds) FILTER (stage = 'train') AS seconds_train,
        sum(seconds) FILTER (stage = 'evaluate') AS seconds_evaluate,
        sum(seconds) FILTER (stage = 'iteration') - sum(seconds) FILTER (stage <> 'iteration') AS seconds_overhead
    FROM snapshots
    GROUP BY ALL
)
SELECT
    s.run_id, s.iteration, s.policy_id,
    f.train_reward, h.heldout_accuracy, h.heldout_avg_at_k,
    coalesce(d.n_fresh, 0) AS n_fresh, coalesce(d.n_replayed, 0) AS n_replayed, d.mean_age_iterations, s.loss,
    t.seconds_generate, t.seconds_score, t.seconds_draw, t.seconds_reference, t.seconds_train, t.seconds_evaluate,
    t.seconds_overhead
FROM reached s
LEFT JOIN fresh f ON f.run_id = s.run_id AND f.iteration = s.iteration
LEFT JOIN heldout h ON h.run_id = s.run_id AND h.policy_id = s.policy_id
LEFT JOIN drawn d ON d.pass_id = s.pass_id
LEFT JOIN times t ON t.run_id = s.run_id AND t.iteration = s.iteration
