"""The builder of the example tasks: real facts, sound tasks, nothing shared by train and eval."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tasks import build as builder
from examples.tasks.catalogue import drafts
from examples.tasks.draft import Draft, Item, split, stem
from maitre.tuning.tasks import Task, load_tasks, normalised


@pytest.fixture(scope="module")
def all_drafts() -> list[Draft]:
    return list(drafts())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "tasks"
    builder.build(out)
    return out


@pytest.fixture
def few_drafts(monkeypatch):
    made = [_draft("one", 500), _draft("two", 600)]
    monkeypatch.setattr(builder, "drafts", lambda: iter(made))
    return made


def _draft(name: str, count: int, labels: int = 2, entities: int = 1) -> Draft:
    items = tuple(
        Item(f"{name} {i}", f"label{i % labels}", tuple(f"e{i}-{k}" for k in range(entities)))
        for i in range(count)
    )
    return Draft(name, "group", "A draft", "Which label?", items)


@given(st.integers(0, 10_000), st.integers(150, 400), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_train_and_eval_share_no_entity(seed, entities, labels):
    rng = random.Random(seed)
    pairs = [rng.sample(range(entities), 2) for _ in range(1500)]
    drawn = [
        Item(f"{a} {b}", f"label{rng.randrange(labels)}", (f"e{a}", f"e{b}")) for a, b in pairs
    ]
    items = {item.prompt: item for item in drawn}
    task = split(Draft("t", "g", "d", "i", tuple(items.values())), seed)
    train, evaluation = (
        {entity for example in examples for entity in items[example.prompt].entities}
        for examples in (task.train, task.eval)
    )
    assert not train & evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_no_example_task_shares_an_entity_between_any_train_and_any_eval(all_drafts, seed):
    train: set[str] = set()
    evaluation: set[str] = set()
    for draft in all_drafts:
        entities = {normalised(item.prompt): item.entities for item in draft.items}
        task = split(draft, seed)
        train.update(e for x in task.train for e in entities[normalised(x.prompt)])
        evaluation.update(e for x in task.eval for e in entities[normalised(x.prompt)])
    assert not train & evaluation


def test_there_are_about_forty_tasks_in_about_eight_groups(built):
    groups = Counter(task.group for task in load_tasks(built))
    assert groups.total() >= 40
    assert len(groups) >= 8
    assert min(groups.values()) >= 4


def test_every_task_is_short_balanced_and_answered_by_one_of_few_words(built):
    for task in load_tasks(built):
        assert task.instruction
        assert task.metric == "accuracy"
        assert len(task.train) >= 64, task.name
        assert len(task.eval) >= 200, task.name
        assert 2 <= len(task.labels) <= 8, task.name
        assert task.majority_share() <= 1.5 / len(task.labels), task.name
        for label in task.labels:
            assert label == f" {label.split()[0]}", task.name
        assert max(len(x.prompt) for x in (*task.train, *task.eval)) <= 80, task.name
        assert {x.completion for x in task.train} == {x.completion for x in task.eval}, task.name


def test_known_facts_are_answered_as_everyone_knows(all_drafts):
    answers = {
        (draft.name, item.prompt): item.label for draft in all_drafts for item in draft.items
    }
    assert answers["continent-of-country", "Kenya"] == "Africa"
    assert answers["country-of-european-city", "Lyon"] == "France"
    assert answers["sentiment-word", "wonderful"] == "positive"
    assert answers["noun-number", "children"] == "plural"


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path, few_drafts):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        builder.build(tmp_path / name, seed)
    a, b, c = ([t.fingerprint() for t in load_tasks(tmp_path / name)] for name in "abc")
    assert a == b
    assert all(one != other for one, other in zip(a, c, strict=True))


def test_a_second_build_writes_nothing(tmp_path, few_drafts, capsys):
    out = tmp_path / "tasks"
    assert builder.main(["--out", str(out)]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert builder.main(["--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("up to date\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_removed_task_is_built_again(tmp_path, few_drafts):
    out = tmp_path / "tasks"
    builder.build(out)
    for path in (out / "one").iterdir():
        path.unlink()
    assert [task.name for task in builder.build(out)] == ["one", "two"]
    assert Task.load(out / "one").name == "one"


def test_a_build_that_fails_leaves_the_old_tasks(tmp_path, few_drafts, capsys):
    out = tmp_path / "tasks"
    builder.build(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    few_drafts.append(_draft("small", 50))
    assert builder.main(["--out", str(out), "--seed", "1"]) == 2
    assert "task 'small': " in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]


def test_a_folder_with_other_things_is_left_alone(tmp_path, few_drafts, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert builder.main(["--out", str(tmp_path)]) == 2
    assert "holds 'mine.txt', which no build put there" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_prompts_with_two_answers_are_dropped():
    extra = tuple(Item("Same  Text", label, ("e",)) for label in ("label0", "label1"))
    draft = _draft("t", 400)
    task = split(Draft("t", "g", "d", "i", draft.items + extra), 0)
    assert "same text" not in {normalised(x.prompt) for x in (*task.train, *task.eval)}


def test_inflections_of_a_word_have_one_stem():
    assert stem("Wonderful") == stem("wonderfully") != stem("terrible")
