import pytest

from fedmem.data import prompts

OPTIONS = ["aspirin", "insulin", "heparin", "iron"]


def test_mcq_is_written_as_in_the_paper():
    record = prompts.mcq("q1", "What lowers sugar?", OPTIONS, 1)
    assert prompts.text(record) == (
        "MCQ: What lowers sugar?\nOptions:\nA. aspirin\nB. insulin\nC. heparin\nD. iron\n"
        "The answer is: B\n"
    )
    assert record.options == (" A", " B", " C", " D")
    assert (record.answer, record.correct, record.task) == (" B", 1, "mcq")


def test_closed_question_is_written_as_in_the_paper():
    record = prompts.closed("q1", "We studied it.", "Does it help?", "maybe")
    assert prompts.text(record) == (
        "Closed Question: We studied it.\nDoes it help?\nThe answer is: maybe\n"
    )
    assert record.options == (" yes", " no", " maybe")
    assert record.correct == 2


def test_open_question_has_no_options():
    record = prompts.open_question("q1", "What is fever?", "A high temperature.")
    assert prompts.text(record) == (
        "Open Question: What is fever?\nThe answer is: A high temperature.\n"
    )
    assert record.options == ()
    assert record.correct is None


def test_mcq_by_text_answers_with_the_option():
    record = prompts.mcq_text("q1", "What lowers sugar?", OPTIONS, 1)
    assert record.prompt == prompts.mcq("q1", "What lowers sugar?", OPTIONS, 1).prompt
    assert record.answer == " insulin"
    assert record.options == (" aspirin", " insulin", " heparin", " iron")


def test_every_prompt_ends_with_the_cue_and_every_option_starts_with_one_space():
    for record in (
        prompts.mcq("1", "q", OPTIONS, 0),
        prompts.mcq_text("1", "q", OPTIONS, 0),
        prompts.closed("1", "c", "q", "no"),
        prompts.open_question("1", "q", "a"),
    ):
        assert record.prompt.endswith("\nThe answer is:")
        for option in (record.answer, *record.options):
            assert option.startswith(" ")
            assert not option.startswith("  ")


def test_note_form():
    assert prompts.note_text("Seen today.") == "Medical Note: Seen today.\n"


def test_wrong_questions_are_refused():
    with pytest.raises(ValueError, match=r"4 options, not 3"):
        prompts.mcq("1", "q", OPTIONS[:3], 0)
    with pytest.raises(ValueError, match=r"right option is 4"):
        prompts.mcq("1", "q", OPTIONS, 4)
    with pytest.raises(ValueError, match=r"read the same"):
        prompts.mcq_text("1", "q", ["a", "b", "a", "c"], 0)
    with pytest.raises(ValueError, match=r"yes, no or maybe, not 'Yes'"):
        prompts.closed("1", "c", "q", "Yes")
