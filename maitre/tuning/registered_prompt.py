"""A registered prompt with its base model, ready to answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maitre.errors import UserError
from maitre.tuning.answer import answer
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuningInputError
from maitre.tuning.messages import read_messages
from maitre.tuning.prompt_card import PromptCard, chat_template_hash, read_prompt


@dataclass(frozen=True, eq=False)
class RegisteredPrompt:
    """A prompt `[virtual_tokens, hidden]`, its card, and the base model that it was tuned for."""

    card: PromptCard
    prompt: np.ndarray
    model: BaseModel

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "RegisteredPrompt":
        """Read the prompt's folder and load the base model that `config` names.

        `config` holds `base_model` (a folder or a hub id), `device` and `dtype`.

        Raises:
            UserError: there is no such base model, or it is not the one of the card.
        """
        card, prompt = read_prompt(folder)
        named = str(config.get("base_model") or "")
        how = "model_config={'base_model': FOLDER_OR_HUB_ID}"
        if not named:
            raise UserError(f"the prompt of task {card.task}: expected {how}; got no base_model")
        try:
            model = BaseModel.load(
                named,
                device=str(config.get("device") or "auto"),
                dtype=str(config.get("dtype") or card.dtype),
            )
        except UserError as error:
            raise UserError(
                f"the prompt of task {card.task} needs its base model {card.base_model}: "
                f"give mlflow.pyfunc.load_model {how}; {error}"
            ) from error
        for what, found, expected in (
            ("weights", model.hash, card.base_model_hash),
            ("tokenizer", model.tokenizer_hash, card.tokenizer_hash),
            ("chat template", chat_template_hash(model.tokenizer), card.chat_template_hash),
        ):
            if expected is not None and found != expected:
                raise UserError(
                    f"this prompt was tuned for {card.base_model}: expected {what} "
                    f"{expected[:12]}; got {str(found)[:12]} in {named}"
                )
        return cls(card, prompt, model)

    def answers(self, rows: Sequence[Mapping[Any, Any]]) -> list[str]:
        """Return the answer of each row: of its `messages`, or of its `prompt`.

        Raises:
            UserError: a row has neither, or its chat cannot be used; it names the row (from 1).
        """
        asked = []
        for number, row in enumerate(rows, start=1):
            try:
                asked.append(_input_of(row))
            except UserError as error:
                raise TuningInputError(f"row {number}: {error}") from error
        return answer(
            self.model,
            self.prompt,
            asked,
            position=self.card.position,
            max_new_tokens=self.card.max_new_tokens,
            fold_system=self.card.fold_system,
        )


def _input_of(row: Mapping[str, Any]) -> Any:
    messages, prompt = row.get("messages"), row.get("prompt")
    if isinstance(messages, np.ndarray):
        messages = messages.tolist()
    if isinstance(messages, list | tuple):
        return read_messages(messages)
    if isinstance(prompt, str) and prompt:
        return prompt
    raise TuningInputError("expected `messages`, a list of messages, or `prompt`, a text")
