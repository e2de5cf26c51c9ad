"""Tasks: reading, checking, saving."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.tuning import tasks
from maitre.tuning.tasks import Example, Message, Task, TaskError, load_tasks, normalised

TINY = Path(__file__).parent / "tiny_tasks"
HEADER = "name: colours\ndescription: Colour of a fruit\nmetric: accuracy\n"
TRAIN = '{"prompt": "cherry", "completion": " red"}\n'
EVAL = '{"prompt": "lime", "completion": " green"}\n'


def make_task(folder: Path, header: str = HEADER, train: str = TRAIN, evaluation: str = EVAL):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(header, encoding="utf-8")
    (folder / "train.jsonl").write_text(train, encoding="utf-8")
    (folder / "eval.jsonl").write_text(evaluation, encoding="utf-8")
    return folder


def error_of(folder: Path) -> str:
    with pytest.raises(TaskError) as caught:
        Task.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_prompts_and_completions_verbatim(tmp_path):
    task = Task.load(make_task(tmp_path))
    assert task.name == "colours"
    assert task.instruction is None
    assert task.train == (Example("cherry", " red"),)
    assert task.labels == (" green", " red")


def test_a_chat_keeps_its_messages(tmp_path):
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Colour of a cherry?"},
        {"role": "assistant", "content": "Red"},
    ]
    line = json.dumps({"messages": messages}) + "\n"
    [example] = Task.load(make_task(tmp_path, train=line)).train
    assert example.prompt == "Answer in one word.\nColour of a cherry?"
    assert example.completion == "Red"
    assert example.messages == tuple(Message(m["role"], m["content"]) for m in messages)


def test_blank_lines_and_line_separators_inside_texts_are_no_line_ends(tmp_path):
    train = '\n{"prompt": "a\u2028b", "completion": " red"}\r\n\n'
    assert Task.load(make_task(tmp_path, train=train)).train == (Example("a\u2028b", " red"),)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (HEADER + "metrics: loss\n", "unknown field 'metrics'"),
        (HEADER.replace("accuracy", "bleu"), "unknown metric 'bleu'; known: accuracy, loss"),
        (HEADER.replace("colours", "../up"), "bad name '../up'"),
        (HEADER.replace("colours", "''"), "bad name ''"),
        (HEADER.replace("name: colours\n", ""), "no name"),
        (HEADER.replace("metric: accuracy\n", ""), "no metric"),
        (HEADER.replace("colours", "7"), "name: input should be a valid string, not 7"),
        ("- a\n- b\n", "expected lines of the form `field: value`; got list"),
        ("name: [\n", "task.yaml:2: not YAML"),
        ("", "no name"),
    ],
)
def test_a_bad_header_is_named(tmp_path, header, expected):
    message = error_of(make_task(tmp_path, header=header))
    assert message.startswith(str(tmp_path / "task.yaml"))
    assert expected in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"prompt": "a"', "malformed JSON: "),
        ("[1]", "a line must be an object"),
        ('{"prompt": "a"}', "no completion"),
        ('{"completion": "a"}', "no prompt"),
        ('{"prompt": "a", "completion": ""}', "empty completion"),
        ('{"prompt": "a", "completion": " \\n"}', "empty completion"),
        ('{"prompt": "", "completion": "b"}', "empty prompt"),
        ('{"prompt": "a", "completion": 3}', "completion must be text, not 3"),
        ('{"prompt": "a", "completion": "b", "label": 1}', "unknown field 'label'"),
        ('{"prompt": "a", "completion": "\\ud800"}', "not valid UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"messages": []}', "at least a question and its answer"),
        ('{"messages": [1, 2]}', "message 1: must be an object"),
        ('{"messages": [{"role": "user"}, {}]}', "message 1: no content"),
        (
            '{"messages": [{"role": "bot", "content": "a"}, {"role": "user", "content": "b"}]}',
            "message 1: role must be one of system, user, assistant, tool, not 'bot'",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
            "the last message must be the assistant's, not the user's",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, expected):
    message = error_of(make_task(tmp_path, train=f"{TRAIN}\n{line}\n"))
    assert message.startswith(f"{tmp_path / 'train.jsonl'}:3: ")
    assert expected in message


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    make_task(tmp_path)
    (tmp_path / "eval.jsonl").write_bytes(EVAL.encode() + b'{"prompt": "\xff"}\n')
    assert error_of(tmp_path) == f"{tmp_path / 'eval.jsonl'}:2: the text is not valid UTF-8"


@pytest.mark.parametrize("name", ["task.yaml", "train.jsonl", "eval.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    make_task(tmp_path)
    (tmp_path / name).unlink()
    assert error_of(tmp_path).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_split_is_named(tmp_path, content):
    message = error_of(make_task(tmp_path, evaluation=content))
    assert message == f"{tmp_path / 'eval.jsonl'}: is empty; it needs at least one example"


def test_a_missing_folder_is_named(tmp_path):
    assert error_of(tmp_path / "none") == f"{tmp_path / 'none'}: no such task folder"


def test_overlap_is_named_with_its_lines(tmp_path):
    message = error_of(make_task(tmp_path, evaluation=EVAL + TRAIN + "\n"))
    assert message.startswith(f"{tmp_path / 'eval.jsonl'}:2: ")
    first = json.loads(TRAIN.splitlines()[0])["prompt"]
    assert f"in train too, the first {first!r} (train.jsonl:1)" in message


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [("polish", "Polish"), ("a b", "a  b"), ("ab", " ab"), ("ＡＢ", "AB"), ("Ⴀ", "ⴀ"), ("ß", "SS")],
    ids=["case", "spacing", "leading blank", "width", "Georgian capitals", "sharp s"],
)
def test_tasks_about_case_width_and_spacing_do_not_overlap(train, evaluation):
    Task("t", "", None, "accuracy", None, (Example(train, "x"),), (Example(evaluation, "y"),))


def test_two_ways_of_unicode_to_write_a_character_overlap():
    with pytest.raises(TaskError, match="eval overlaps train"):
        Task("t", "", None, "loss", None, (Example("\u00e9", "x"),), (Example("e\u0301", "x"),))


def test_a_task_made_in_memory_is_checked_too():
    one = (Example("a", " b"),)
    with pytest.raises(TaskError, match="eval overlaps train: 1 eval prompt is in train too"):
        Task("t", "", None, "accuracy", None, one, one)
    with pytest.raises(TaskError, match="no eval examples"):
        Task("t", "", None, "accuracy", None, one, ())


def test_majority_share_is_of_the_eval_split():
    evaluation = tuple(Example(f"e{i}", " x" if i < 3 else " y") for i in range(4))
    task = Task("t", "", None, "accuracy", None, (Example("a", " z"),), evaluation)
    assert task.majority_share() == 0.75
    assert task.labels == (" x", " y", " z")


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(TEXTS, min_size=2, max_size=6, unique_by=normalised), TEXTS, st.none() | TEXTS, TEXTS
)
def test_save_and_load_give_the_same_task(tmp_path_factory, prompts, completion, text, chat):
    folder = tmp_path_factory.mktemp("saved") / "task"
    answered = Example(prompts[0], chat, (Message("user", prompts[0]), Message("assistant", chat)))
    others = tuple(Example(prompt, completion) for prompt in prompts[1:])
    task = Task("t-1", completion, text, "loss", text, (answered,), others)
    task.save(folder)
    task.save(folder)
    loaded = Task.load(folder)
    assert loaded == task
    assert loaded.fingerprint() == task.fingerprint()
    assert [path.name for path in folder.parent.iterdir()] == ["task"]


def test_the_fingerprint_tells_any_change():
    train, evaluation = (Example("a", " x"), Example("b", " y")), (Example("c", " x"),)
    base = Task("t", "d", None, "accuracy", None, train, evaluation)
    changed = [
        Task("t", "d", None, "loss", None, train, evaluation),
        Task("t", "d", "Say x.", "accuracy", None, train, evaluation),
        Task("t", "d", None, "accuracy", None, train[::-1], evaluation),
        Task("t", "d", None, "accuracy", None, train, (Example("c", "x"),)),
    ]
    assert len({task.fingerprint() for task in (base, *changed)}) == 5


def test_a_failing_save_leaves_the_old_task(tmp_path, monkeypatch):
    folder = make_task(tmp_path / "task")
    old = Task.load(folder)
    new = Task("new", "", None, "loss", None, old.train, old.eval)
    rename = Path.rename

    def fail_on_new(self: Path, target: Path):
        if self.parent.name.startswith(".task.") and target == folder and "old" not in self.name:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(tasks.Path, "rename", fail_on_new)
    with pytest.raises(OSError, match="disk full"):
        new.save(folder)
    assert Task.load(folder) == old
    assert os.listdir(tmp_path) == ["task"]


def test_save_takes_no_folder_that_holds_something_else(tmp_path):
    folder = make_task(tmp_path)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(TaskError, match=r"holds 'notes.txt', which is not a task file"):
        Task.load(folder).save(folder)


def test_load_tasks_sorts_by_name():
    names = [task.name for task in load_tasks(TINY)]
    assert names == ["tiny-fruit", "tiny-sea"]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_no_tasks_is_an_error(tmp_path, make):
    make(tmp_path / "tasks")
    with pytest.raises(TaskError, match=r"no such folder of tasks|holds no task folder"):
        load_tasks(tmp_path / "tasks")


def test_two_tasks_of_one_name_are_an_error(tmp_path):
    make_task(tmp_path / "a")
    make_task(tmp_path / "b")
    with pytest.raises(TaskError, match=r"the name 'colours' is taken by .*a"):
        load_tasks(tmp_path)
