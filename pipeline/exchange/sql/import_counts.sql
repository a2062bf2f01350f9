-- Inputs: import_id. One row: counts of the rows that the import has added so far.
SELECT
    (SELECT count(*) FROM prompts WHERE import_id = $import_id) AS n_prompts,
    (SELECT count(*) FROM prompts WHERE import_id = $import_id AND split = 'train') AS n_train,
    (SELECT count(*) FROM trajectories WHERE import_id = $import_id) AS n_rollouts,
    (SELECT count(*) FROM trajectories WHERE import_id = $import_id AND n_response_tokens IS NULL) AS n_text_only,
    (SELECT count(*) FROM trajectories WHERE import_id = $import_id AND tokenizer_digest IS NULL) AS n_no_tokenizer,
    (SELECT count(DISTINCT policy_id) FROM trajectories WHERE import_id = $import_id) AS n_policies,
    (SELECT count(*) FROM rejects WHERE import_id = $import_id) AS n_rejected
