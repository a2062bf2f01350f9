"""Judges of a response, one short file each. A verifier says what it read and how it judged; the reward is a table
lookup from the verdict, so shaping never touches judging.
"""

from importlib.metadata import version

from schemas.enums import Verdict

# No reward where there is no judgement: a check that timed out is not a wrong answer.
REWARDS: dict[Verdict, float | None] = {
    Verdict.CORRECT: 1.0,
    Verdict.WRONG: 0.0,
    Verdict.NO_ANSWER: 0.0,
    Verdict.BAD_GOLD: None,
    Verdict.TIMEOUT: None,
    Verdict.CRASHED: None,
}

# Labels that came with a file: no judge of ours.
IMPORTED = "imported"

_VERSIONS = {"math": f"1+math-verify-{version('math-verify')}"}


def verifier_id(name: str) -> str:
    """The verifier's name, its version and its library's: another math-verify is another judge."""
    return name if name == IMPORTED else f"{name}@{_VERSIONS[name]}"
