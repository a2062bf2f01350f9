"""Evaluation sets as they are published: turns unusual columns into problem and gold_answer.

Columns on the hub:
- GPQA (Idavidrein/gpqa, gpqa_diamond.csv): Question, Correct Answer, Incorrect Answer 1 to 3, and many others.
- OlympiadBench (math-ai/olympiadbench, Hothan/OlympiadBench): question, context, final_answer (a list; null for a proof),
  answer_type, solution (a list of texts), and image_1 to image_9 if there are images.
- AIME 2024 (Maxwell-Jia/AIME_2024): Problem, Answer, Solution.
The other sets need no change: AIME 2024 and 2025, AMC, MATH-500 and Minerva have problem or question, and answer. If a
file of MATH, Minerva or AIME has only a solution, the answer is the content of its last box.
"""

from collections.abc import Sequence

from pipeline.exchange.formats import values
from pipeline.exchange.formats.values import BadRow, Values
from schemas import digest

LETTERS = "ABCD"
_GPQA = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_IMAGES = tuple(f"image_{number}" for number in range(1, 10))


def plain(row: Values) -> Values:
    """A row of one of these sets, in our columns; a row of any other set unchanged.

    Raises:
        BadRow: the question needs more than text, or two of its choices are the same.
    """
    if all(name in row for name in _GPQA):
        return _multiple_choice(*(_text(row, name) for name in _GPQA))
    if {"question", "final_answer", "answer_type"} <= set(row):
        return _olympiad(row)
    if "Problem" in row and "Answer" in row:
        return {"problem": row["Problem"], "gold_answer": row["Answer"]}
    return row


def _multiple_choice(question: str, right: str, *wrong: str) -> Values:
    """The choices under the question, in an order that depends only on the texts; the right letter is the gold answer."""
    if right in wrong or len(set(wrong)) < len(wrong):
        raise BadRow("two of its choices are the same")
    choices = sorted((right, *wrong), key=lambda choice: digest("choice", question, choice))
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    problem = "\n".join([question, "", *listed, "", "The answer is one of the letters A, B, C and D."])
    return {"problem": problem, "gold_answer": LETTERS[choices.index(right)]}


def _olympiad(row: Values) -> Values:
    if any(row.get(name) is not None for name in _IMAGES):
        raise BadRow("its question has an image, and only text can be asked")
    context, question = row.get("context"), row["question"]
    problem = f"{values.string('context', context)}\n\n{question}" if context else question
    return {"problem": problem, "gold_answer": _joined(values.from_json(row["final_answer"]))}


def _joined(answers: str | Sequence[str] | None) -> str | None:
    """Several right answers, all of them required, as a list with commas; None: there is none, as for a proof."""
    if answers is None or isinstance(answers, str):
        return answers
    return ", ".join(values.string("final_answer", each).strip().strip("$") for each in answers) or None


def _text(row: Values, name: str) -> str:
    return values.string(name, row[name]).strip()
