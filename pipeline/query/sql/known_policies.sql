-- No inputs. One row per policy. No order.
SELECT policy_id
FROM policies
