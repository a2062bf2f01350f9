-- progress: one row per run and finished training pass, and one for iteration 0, the policy the run began with. No order.
--   run_id, iteration    the run and its iteration
--   policy_id            the policy that the iteration ended with
--   train_reward         mean reward of the rollouts generated in the iteration; null: it generated none
--   heldout_accuracy     share of this policy's answers to held-out questions that are correct, at temperature 0; the
--                        mean if there are several benchmarks; null: it has not answered all of them
--   heldout_avg_at_k     the same at the temperature at which the run generates
--   n_fresh, n_replayed    draws of the pass, by source
--   mean_age_iterations    mean age of these draws, in iterations; null: there are no draws
--   loss                 as in passes; null: no step was made
--   seconds_generate, seconds_score, seconds_draw, seconds_reference, seconds_train, seconds_evaluate    seconds that each
--                        stage took; null: it did not run, or was interrupted
--   seconds_overhead     wall time of the iteration outside its stages; null: the iteration did not run, or was
--                        interrupted
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
        generate_temperature AS temperature
    FROM run_settings
),
-- Averaged before the join: many runs share a benchmark, and the join would repeat every answer for each run.
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
