-- Inputs: matches, rollouts; verdicts of the other archive; here_verdicts. One row per verdict that this archive lacks,
-- with the place of its rollout in this import (null: the rollout is here already). Ordered by place, rollout and
-- verifier.
SELECT v.* REPLACE (m.trajectory_id AS trajectory_id), r.place
FROM verdicts v
JOIN matches m ON m.their_id = v.trajectory_id AND m.state <> 'unlike'
ANTI JOIN here_verdicts h ON h.trajectory_id = m.trajectory_id AND h.verifier_id = v.verifier_id
LEFT JOIN rollouts r ON r.trajectory_id = m.trajectory_id
ORDER BY r.place, m.trajectory_id, v.verifier_id
