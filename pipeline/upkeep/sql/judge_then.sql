-- Inputs: verifier, as a recipe names it. At most one row: that verifier, in its last version that judged something here.
SELECT verifier_id
FROM judges
WHERE verifier_id = $verifier OR name = $verifier
ORDER BY version DESC, verifier_id DESC
LIMIT 1
