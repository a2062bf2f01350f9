"""Which rollouts each update trains on. The recipe's schedule says what an update is made of, and a draw rule
(`sql/draw_*.sql`) gives every rollout in the window its chance. The same state and settings always draw the same
rows.
"""
