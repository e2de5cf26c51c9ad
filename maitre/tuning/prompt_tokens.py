"""The tokens of an input and of its answer: the same in tuning, evaluation, MLflow and the proxy.

A text becomes the tokenizer's tokens, with the special tokens that it puts before a text (BOS) and
without those that it puts after a text (EOS), because the answer follows. A chat goes through the
tokenizer's chat template, which writes its own special tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from maitre.tuning.config import TuningInputError
from maitre.tuning.messages import Message, fold_system

_PROBES = ("a", "the", "0")


@dataclass(frozen=True)
class PromptTokens:
    """Turns inputs and answers into token ids with one tokenizer.

    With `folds_system`, a system message becomes the beginning of the first user message: some
    chat templates refuse the role.
    """

    tokenizer: Any
    folds_system: bool = False

    def input_ids(self, asked: str | Sequence[Message]) -> tuple[int, ...]:
        """Return the token ids of a text, or of a chat with the opening of the answer.

        Raises:
            TuningInputError: there are none, or the chat template is missing or refuses the chat.
        """
        if isinstance(asked, str):
            ids = (*self._leading_ids, *self._tokens_of_text(asked))
        else:
            ids = self._tokens_of_text(self._render_chat(asked))
        if not ids:
            raise TuningInputError("the prompt tokenises to nothing")
        return ids

    def answer_ids(self, completion: str) -> tuple[int, ...]:
        """Return the token ids of an answer, without the end-of-sequence token.

        Raises:
            TuningInputError: there are none.
        """
        ids = self._tokens_of_text(completion)
        if not ids:
            raise TuningInputError("the completion tokenises to nothing")
        return ids

    def end_ids(self, answers: Iterable[Sequence[int]]) -> tuple[int, ...]:
        """Return the token ids that follow every answer of a task with these answers' token ids.

        Where each answer is a single token, that token is the whole answer. Otherwise the
        end-of-sequence token follows, so that generation learns where to stop.
        """
        is_single = all(len(ids) == 1 for ids in answers)
        end = self.tokenizer.eos_token_id
        return () if is_single or end is None else (end,)

    def longest_answer(self, completions: Iterable[str]) -> int:
        """Return how many tokens the longest of a task's answers has, its end included."""
        answers = [self.answer_ids(completion) for completion in completions]
        return max(map(len, answers)) + len(self.end_ids(answers))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the answer that generated tokens give: all before the end-of-sequence token."""
        end = self.tokenizer.eos_token_id
        cut = list(ids)
        if end in cut:
            cut = cut[: cut.index(end)]
        text: str = self.tokenizer.decode(cut, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def _leading_ids(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before every text."""
        for probe in _PROBES:
            plain = self._tokens_of_text(probe)
            whole = tuple(self.tokenizer(probe).input_ids)
            for begin in range(len(whole) - len(plain) + 1):
                if plain and whole[begin : begin + len(plain)] == plain:
                    return whole[:begin]
        raise TuningInputError(
            f"the tokenizer {type(self.tokenizer).__name__} changes a text where it adds special "
            "tokens: such tokenizers are not supported"
        )

    def _tokens_of_text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _render_chat(self, messages: Sequence[Message]) -> str:
        import jinja2

        if not getattr(self.tokenizer, "chat_template", True):
            raise TuningInputError("is a chat, but the base model has no chat template")
        folded = fold_system(messages) if self.folds_system else messages
        chat = [{"role": message.role, "content": message.content} for message in folded]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )
        except (jinja2.TemplateError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            has_system = any(message.role == "system" for message in folded)
            way_out = "; `fold_system: true` in task.yaml puts the system message into the first "
            raise TuningInputError(
                f"the base model's chat template refuses the chat: {reason}"
                + (f"{way_out}user message" if has_system else "")
            ) from error
        return text
