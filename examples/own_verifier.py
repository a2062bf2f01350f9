"""A verifier of your own: the numbers of an answer in any order; part of them right is worth part of the reward.

A recipe names it as python:MODULE:FUNCTION. From the root of this repository:

    reval rescore --verifier python:examples.own_verifier:judge            # judges archived rollouts again
    reval iterate --set score.verifier=python:examples.own_verifier:judge  # trains with it

In a folder of your own that holds a copy of this file it is python:own_verifier:judge. The verdicts carry a digest of
this file as the verifier's version: a changed file is another verifier, and its verdicts stand beside the old ones.
"""

import re

NUMBER = re.compile(r"-?\d+")


def judge(gold_answer: str, response: str) -> tuple[float | str | None, str | None]:
    """Judges a response against the gold answer. It runs in a process that is killed after `score.max_seconds`.

    Returns:
        The judgement and the answer as it was read. The judgement may be True, False, None (there is no answer), a
        number (the reward; above 0 counts as correct), or a verdict's name, such as "bad_gold". A function may return
        the judgement alone.
    """
    wanted = set(NUMBER.findall(gold_answer))
    if not wanted:
        return "bad_gold", None
    # What follows the last "answer", or the whole response where that word is missing.
    found = NUMBER.findall(re.split("answer", response, flags=re.IGNORECASE)[-1])
    if not found:
        return None, None
    right = len(wanted & set(found)) / len(wanted | set(found))
    return right, ", ".join(found)
