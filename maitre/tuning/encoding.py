"""Examples as token ids."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maitre.tuning.config import TuningInputError
from maitre.tuning.prompt_tokens import PromptTokens
from maitre.tuning.tasks import Example, Task

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel


@dataclass(frozen=True)
class EncodedExample:
    """The token ids of an input and of its completion."""

    input_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class EncodedTask:
    """A task's splits as token ids.

    Where every completion is a single token, that token is the whole answer; otherwise every
    completion ends in the end-of-sequence token, so that generation learns where to stop.
    """

    name: str
    train: tuple[EncodedExample, ...]
    eval: tuple[EncodedExample, ...]
    majority_share: float


def encode(
    model: "BaseModel",
    task: Task,
    virtual_tokens: int,
    *,
    train: Sequence[int] | None = None,
    eval: Sequence[int] | None = None,  # noqa: A002 the split's name
) -> EncodedTask:
    """Tokenise a task for a model that also takes `virtual_tokens`.

    `train` and `eval` pick examples by their places, in the order given; `None` picks all.

    Raises:
        TuningInputError: a completion or input that tokenises to nothing, an example longer than
            the model's context, a chat that the tokenizer's chat template refuses; the message
            names the task and the example's line (its number, from 1, where it has none).
    """
    tokens = PromptTokens(model.tokenizer, task.fold_system)
    answers = {
        example.completion: _answer_ids(tokens, task, split, place, example)
        for split, examples in (("train", task.train), ("eval", task.eval))
        for place, example in enumerate(examples)
    }
    end = tokens.end_ids(answers.values())

    def encoded(
        examples: tuple[Example, ...], split: str, picked: Sequence[int] | None
    ) -> tuple[EncodedExample, ...]:
        rows = []
        for place in range(len(examples)) if picked is None else picked:
            example = examples[place]
            with _name_example_in_errors(task, split, place, example):
                row = EncodedExample(
                    tokens.input_ids(example.asked), answers[example.completion] + end
                )
                length = len(row.input_ids) + virtual_tokens + len(row.answer_ids)
                if length > model.max_context_tokens:
                    raise TuningInputError(
                        f"{length} tokens with the soft prompt, "
                        f"but {model.name} takes {model.max_context_tokens}"
                    )
            rows.append(row)
        return tuple(rows)

    return EncodedTask(
        name=task.name,
        train=encoded(task.train, "train", train),
        eval=encoded(task.eval, "eval", eval),
        majority_share=task.majority_share(),
    )


def _answer_ids(
    tokens: PromptTokens, task: Task, split: str, place: int, example: Example
) -> tuple[int, ...]:
    with _name_example_in_errors(task, split, place, example):
        return tokens.answer_ids(example.completion)


@contextmanager
def _name_example_in_errors(task: Task, split: str, place: int, example: Example) -> Iterator[None]:
    """Let an error name the task and the example's line, or its number where it has no line."""
    try:
        yield
    except TuningInputError as error:
        if example.line is None:
            where = f"{split} example {place + 1}"
        else:
            where = f"{split}.jsonl:{example.line}"
        between = " " if str(error).startswith("is ") else ": "
        raise TuningInputError(f"task {task.name!r}, {where}{between}{error}") from error
