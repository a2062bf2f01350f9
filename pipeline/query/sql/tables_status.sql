-- No inputs. One row per table with its number of rows, in the order of the pipeline.
SELECT name, n_rows FROM (VALUES
    (1, 'prompts', (SELECT count(*) FROM prompts)),
    (2, 'runs', (SELECT count(*) FROM runs)),
    (3, 'policies', (SELECT count(*) FROM policies)),
    (4, 'trajectories', (SELECT count(*) FROM trajectories)),
    (5, 'responses', (SELECT count(*) FROM responses)),
    (6, 'engine_checks', (SELECT count(*) FROM engine_checks)),
    (7, 'verdicts', (SELECT count(*) FROM verdicts)),
    (8, 'references', (SELECT count(*) FROM "references")),
    (9, 'draws', (SELECT count(*) FROM draws)),
    (10, 'updates', (SELECT count(*) FROM updates)),
    (11, 'steps', (SELECT count(*) FROM steps)),
    (12, 'passes', (SELECT count(*) FROM passes)),
    (13, 'evaluations', (SELECT count(*) FROM evaluations)),
    (14, 'snapshots', (SELECT count(*) FROM snapshots)),
    (15, 'labels', (SELECT count(*) FROM labels)),
    (16, 'imports', (SELECT count(*) FROM imports)),
    (17, 'rejects', (SELECT count(*) FROM rejects))
) AS t (place, name, n_rows)
ORDER BY place
