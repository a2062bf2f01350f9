"""Engines generate responses: vLLM, or transformers where there is no vLLM. An engine runs in a process of its own, gets
token ids and gives token ids with their log-probs. After each change of weights its log-probs are compared with the
trainer's.
"""
