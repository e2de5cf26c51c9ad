"""Examples as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuningInputError
from maitre.tuning.tasks import Example, Task


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
    model: BaseModel,
    task: Task,
    virtual_tokens: int,
    *,
    train: Sequence[int] | None = None,
    eval: Sequence[int] | None = None,  # noqa: A002 the split's name
) -> EncodedTask:
    """Tokenise a task for a model which is to take `virtual_tokens` besides.

    `train` and `eval` pick examples by their places, in the order given; `None` is all of them.
    Chats go through the tokenizer's chat template. Raises `TuningInputError` for a completion or
    input that tokenises to nothing, an example longer than the model's context, or chats where
    the tokenizer has no chat template; the message names task, split and example (from 1).
    """
    answers = {
        example.completion: _tokens(model, example.completion)
        for example in (*task.train, *task.eval)
    }
    end: tuple[int, ...] = ()
    if any(len(ids) > 1 for ids in answers.values()) and model.tokenizer.eos_token_id is not None:
        end = (model.tokenizer.eos_token_id,)

    def encoded(
        examples: tuple[Example, ...], split: str, picked: Sequence[int] | None
    ) -> tuple[EncodedExample, ...]:
        rows = []
        for place in range(len(examples)) if picked is None else picked:
            example = examples[place]
            where = f"task {task.name!r}, {split} example {place + 1}"
            answer_ids = answers[example.completion]
            if not answer_ids:
                raise TuningInputError(f"{where}: the completion tokenises to nothing")
            row = EncodedExample(_input_ids(model, example, where), answer_ids + end)
            length = len(row.input_ids) + virtual_tokens + len(row.answer_ids)
            if length > model.max_context_tokens:
                raise TuningInputError(
                    f"{where}: {length} tokens with the soft prompt, "
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


def _input_ids(model: BaseModel, example: Example, where: str) -> tuple[int, ...]:
    if example.messages is None:
        ids = tuple(model.tokenizer(example.prompt).input_ids)
    else:
        if not model.tokenizer.chat_template:
            raise TuningInputError(f"{where} is a chat, but {model.name} has no chat template")
        chat = [{"role": m.role, "content": m.content} for m in example.messages[:-1]]
        text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = _tokens(model, text)
    if not ids:
        raise TuningInputError(f"{where}: the prompt tokenises to nothing")
    return ids


def _tokens(model: BaseModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer(text, add_special_tokens=False).input_ids)
