"""Answer a request for a tuned prompt's model name with the base model and `prompt_embeds`."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maitre.errors import UserError
from maitre.serving.proxy.embeds import PromptEmbedder, answer_settings, read_tuned_prompt
from maitre.serving.proxy.routes import RoutedPrompt
from maitre.serving.proxy.upstream import Answer

EmbedderOf = Callable[[str], PromptEmbedder]
_REPLACED = ("prompt", "messages", "model")


class TunedPrompts:
    """Embeds tuned prompts; keeps the embedder of each base model after its first use."""

    def __init__(self, embedder_of: EmbedderOf) -> None:
        self._embedder_of = embedder_of
        self._embedders: dict[str, PromptEmbedder] = {}
        self._loading = threading.Lock()

    def request_to_base_model(
        self, body: Mapping[str, Any], prompt: RoutedPrompt, *, chat: bool
    ) -> bytes:
        """Return the request to the base model, with the tuned prompt in its embeddings.

        Raises:
            UserError: the request has no text, or asks for what a tuned prompt cannot do.
        """
        text = chat_messages(body.get("messages")) if chat else body.get("prompt")
        if not text or not isinstance(text, str | list):
            raise UserError("'prompt': expected one text")
        if not chat and not isinstance(text, str):
            raise UserError("'prompt': expected one text")
        if body.get("stream"):
            raise UserError("'stream': expected false; a tuned prompt's answers are not streamed")
        base = prompt.base_model
        with self._loading:
            if base not in self._embedders:
                self._embedders[base] = self._embedder_of(base)
        tuned = read_tuned_prompt(Path(prompt.folder))
        embeds = self._embedders[base].embed(tuned, text)
        kept = {name: value for name, value in body.items() if name not in _REPLACED}
        return json.dumps(
            {**answer_settings(tuned), **kept, "model": base, "prompt_embeds": embeds}
        ).encode()


def chat_messages(messages: Any) -> list[dict[str, str]]:
    """Return a chat's messages with plain texts; parts of type `text` are joined.

    Raises:
        UserError: the messages are not those of a chat in OpenAI's form.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError("'messages': expected a list of messages")
    return [_plain_message(position, message) for position, message in enumerate(messages)]


def _plain_message(position: int, message: Any) -> dict[str, str]:
    where = f"messages[{position}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"{where}: expected an object with 'role' and 'content'")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [text for text in parts if isinstance(text, str)]
        if len(texts) < len(content):
            raise UserError(f"{where}: expected parts of type 'text' only")
        content = "\n".join(texts)
    if not isinstance(content, str):
        raise UserError(f"{where}: expected 'content' as a text")
    return {"role": message["role"], "content": content}


def under_the_prompts_name(answer: Answer, model: str, *, chat: bool) -> Answer:
    """Return a completion under the tuned prompt's name; for a chat, as a chat completion."""
    if answer.status != 200:
        return answer
    try:
        document = {**json.loads(answer.body), "model": model}
        if chat:
            document["object"] = "chat.completion"
            document["choices"] = [
                {
                    "index": choice.get("index", place),
                    "finish_reason": choice.get("finish_reason"),
                    "message": {"role": "assistant", "content": choice.get("text", "")},
                }
                for place, choice in enumerate(document["choices"])
            ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Answer.error(502, f"{answer.server}: expected a completion; got another document")
    return Answer(200, "application/json", json.dumps(document).encode(), server=answer.server)
